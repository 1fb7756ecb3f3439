"""What the penalties of a model do, in the tools that users look at."""
