"""How the nets of `tfreg demo` are trained."""

import math
import sys

BATCH_SIZE = 64


def number_of_steps(data, epochs):
    """The optimizer's steps in `epochs`, on `data` as `train_test_split` returns it."""
    train_inputs, *_ = data
    return epochs * math.ceil(len(train_inputs) / BATCH_SIZE)


def fit(model, keras, optimizer, data, epochs, show, callbacks=()):
    """Compiles and trains a classifier; `show(epoch, loss)` is called after each epoch.

    Returns:
        The history of the training. Only with `callbacks` it has accuracies, also that on the test
        set.
    """
    train_inputs, test_inputs, train_labels, test_labels = data
    watched = {"metrics": ["accuracy"]} if callbacks else {}
    model.compile(optimizer, "sparse_categorical_crossentropy", **watched)
    progress = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: show(epoch + 1, logs["loss"])
    )
    return model.fit(
        train_inputs,
        train_labels,
        BATCH_SIZE,
        epochs,
        verbose=0,
        callbacks=[progress, *callbacks],
        validation_data=(test_inputs, test_labels) if callbacks else None,
    )


def progress_line(title, epochs):
    """A function of the epoch and its loss that keeps one line of standard output up to date."""

    def show(epoch, loss):
        line = f"{title}  epoch {epoch}/{epochs}  loss {loss:.4f}"
        if sys.stdout.isatty():
            print(f"\r{line:<79}", end="\n" if epoch == epochs else "", flush=True)
        elif epoch == epochs:
            print(line, flush=True)

    return show
