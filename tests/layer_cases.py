"""The table of Keras's layers: how to build each that has weights, and why the others have none."""

import dataclasses
import inspect
from collections.abc import Callable

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A layer, what it is called on, and where its units and channels are.

    `inputs` are shapes, arrays or dicts of arrays, a list of them for a list. With `linear`, each
    unit of the output, along the axes `units` in row-major order, depends on a group of each
    weight, and each channel of the input, along the axes `channels`, meets a group of each kernel;
    `complete` if it meets all of the group.
    """

    make: Callable
    inputs: tuple
    linear: bool = True
    units: tuple[int, ...] = (-1,)
    channels: tuple[int, ...] = (-1,)
    in_order: bool = True
    complete: bool = True
    shared: bool = False  # several channels meet the same group
    only: str = ""  # the Keras that has it, if the other has a class of that name without it


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def arguments(inputs):
    if isinstance(inputs, tuple) and all(isinstance(length, int) for length in inputs):
        return rand(*inputs)
    if isinstance(inputs, list):
        return [tf.convert_to_tensor(arguments(each)) for each in inputs]
    return inputs


def build(layers, recipe):
    """The layer of a `recipe`, random weights in it, and what it is called on."""
    layer = recipe.make(layers)
    inputs = [arguments(each) for each in recipe.inputs]
    layer(*inputs)
    layer.trainable = True
    for seed, weight in enumerate(layer.trainable_weights):
        weight.assign(rand(*weight.shape, seed=seed + 1))
    return layer, inputs


def _accepts(layer_class, argument):
    return argument in inspect.signature(layer_class.__init__).parameters


def attention(layers, **more):
    gate = {"use_gate": True} if _accepts(layers.MultiHeadAttention, "use_gate") else {}
    return layers.MultiHeadAttention(3, 2, value_dim=4, **gate, **more)


def _grouped_attention(layers):
    gate = {"use_gate": True} if _accepts(layers.GroupQueryAttention, "use_gate") else {}
    return layers.GroupQueryAttention(2, num_query_heads=4, num_key_value_heads=2, **gate)


def _dense_features(layers):
    categories = tf.feature_column.categorical_column_with_identity("row", 5)
    return layers.DenseFeatures([tf.feature_column.embedding_column(categories, 3)])


def _named(name, *arguments, **more):
    return lambda layers: getattr(layers, name)(*arguments, **more)


def _shape(rank, channels, length=4):
    return (2, *[length] * rank, channels)


RECIPES: dict[str, list[Recipe]] = {
    "Dense": [
        Recipe(lambda layers: layers.Dense(3), ((2, 4),)),
        Recipe(lambda layers: layers.Dense(3, use_bias=False), ((2, 5, 4),)),
    ],
    "EinsumDense": [
        Recipe(lambda layers: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c"), ((2, 4),)),
        Recipe(lambda layers: layers.EinsumDense("...x,xy->...y", 3, bias_axes="y"), ((2, 5, 4),)),
        Recipe(
            lambda layers: layers.EinsumDense("ab...,bc->ac...", (3,), bias_axes="c"),
            ((2, 4, 5),),
            units=(1,),
            channels=(1,),
        ),
        Recipe(
            lambda layers: layers.EinsumDense("abc,cde->abde", (5, 3, 2), bias_axes="de"),
            ((2, 5, 4),),
            units=(-2, -1),
        ),
        Recipe(
            lambda layers: layers.EinsumDense("abc,cde->abde", (5, 3, 2), bias_axes="d"),
            ((2, 5, 4),),
            units=(-2, -1),
        ),
        Recipe(
            lambda layers: layers.EinsumDense("abcd,cde->abe", (5, 3), bias_axes="e"),
            ((2, 5, 4, 2),),
            channels=(-2, -1),
        ),
        Recipe(
            lambda layers: layers.EinsumDense("abc,bcd->abd", (3, 2), bias_axes="bd"),
            ((2, 3, 4),),
            units=(-2, -1),
            channels=(-2, -1),
        ),
        Recipe(
            lambda layers: layers.EinsumDense("abc,edc->abde", (5, 3, 2), bias_axes="de"),
            ((2, 5, 4),),
            units=(-2, -1),
            in_order=False,
        ),
    ],
    "Embedding": [
        Recipe(lambda layers: layers.Embedding(5, 3), (np.array([[0, 1, 4]]),), linear=False)
    ],
    "ReversibleEmbedding": [
        Recipe(
            lambda layers: layers.ReversibleEmbedding(5, 3, tie_weights=tied),
            (np.array([[0, 1, 4]]),),
            linear=False,
        )
        for tied in (True, False)
    ],
    "DynamicEmbedding": [
        Recipe(
            lambda layers: layers.experimental.DynamicEmbedding(
                5, 3, tf.constant(["a", "b", "c", "d", "e"])
            ),
            (tf.constant(["a", "e"]),),
            linear=False,
        )
    ],
    "DenseFeatures": [Recipe(_dense_features, ({"row": np.array([[1], [4]])},), linear=False)],
    "RandomFourierFeatures": [
        Recipe(lambda layers: layers.experimental.RandomFourierFeatures(3), ((2, 4),))
    ],
    "STFTSpectrogram": [
        Recipe(
            lambda layers: layers.STFTSpectrogram(mode, 8, 4, 8, expand_dims=True),
            ((2, 16, 2),),
            units=(2,),
            shared=True,
        )
        for mode in ("real", "imag")
    ]
    + [Recipe(lambda layers: layers.STFTSpectrogram("log", 8, 4, 8), ((2, 16, 2),), linear=False)],
    "SimpleRNNCell": [
        Recipe(lambda layers: layers.SimpleRNNCell(3), ((2, 4), [(2, 3)]), linear=False)
    ],
    "GRUCell": [Recipe(lambda layers: layers.GRUCell(3), ((2, 4), [(2, 3)]), linear=False)],
    "LSTMCell": [
        Recipe(lambda layers: layers.LSTMCell(3), ((2, 4), [(2, 3), (2, 3)]), linear=False)
    ],
    "SimpleRNN": [Recipe(lambda layers: layers.SimpleRNN(3), ((2, 5, 4),), linear=False)],
    "GRU": [
        Recipe(lambda layers: layers.GRU(3), ((2, 5, 4),), linear=False),
        Recipe(lambda layers: layers.GRU(3, reset_after=False), ((2, 5, 4),), linear=False),
        Recipe(lambda layers: layers.GRU(3, use_bias=False), ((2, 5, 4),), linear=False),
    ],
    "LSTM": [
        Recipe(lambda layers: layers.LSTM(3), ((2, 5, 4),), linear=False),
        Recipe(lambda layers: layers.LSTM(3, use_bias=False), ((2, 5, 4),), linear=False),
    ],
    "RNN": [
        Recipe(
            lambda layers: layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)]),
            ((2, 5, 4),),
            linear=False,
        )
    ],
    "StackedRNNCells": [
        Recipe(
            lambda layers: layers.StackedRNNCells([layers.GRUCell(3), layers.SimpleRNNCell(2)]),
            ((2, 4), [(2, 3), (2, 2)]),
            linear=False,
        )
    ],
    "Bidirectional": [
        Recipe(lambda layers: layers.Bidirectional(layers.LSTM(3)), ((2, 5, 4),), linear=False)
    ],
    "TimeDistributed": [
        Recipe(lambda layers: layers.TimeDistributed(layers.Dense(3)), ((2, 5, 4),)),
        Recipe(
            lambda layers: layers.TimeDistributed(layers.Conv1DTranspose(3, 2)), ((2, 5, 6, 4),)
        ),
    ],
    "SpectralNormalization": [
        Recipe(lambda layers: layers.SpectralNormalization(layers.Dense(3)), ((2, 4),)),
        Recipe(
            lambda layers: layers.SpectralNormalization(layers.Conv2DTranspose(3, 2)),
            ((2, 6, 6, 4),),
        ),
    ],
    "MultiHeadAttention": [
        Recipe(attention, ((2, 5, 4), (2, 6, 7)), linear=False),
        Recipe(
            lambda layers: attention(layers, output_shape=(2, 3)),
            ((2, 5, 4), (2, 6, 7), (2, 6, 8)),
            linear=False,
        ),
        Recipe(
            lambda layers: attention(layers, use_bias=False, attention_axes=(2,)),
            ((2, 5, 3, 4), (2, 5, 3, 4)),
            linear=False,
        ),
    ],
    "GroupedQueryAttention": [Recipe(_grouped_attention, ((2, 5, 4), (2, 6, 7)), linear=False)],
    "Attention": [
        Recipe(
            lambda layers: layers.Attention(use_scale=True, score_mode="concat"),
            ([(2, 5, 4), (2, 6, 4)],),
            linear=False,
        )
    ],
    "AdditiveAttention": [
        Recipe(lambda layers: layers.AdditiveAttention(), ([(2, 5, 4), (2, 6, 4)],), linear=False)
    ],
    "BatchNormalization": [
        Recipe(lambda layers: layers.BatchNormalization(), ((4, 5, 3),)),
        Recipe(lambda layers: layers.BatchNormalization(axis=1), ((4, 5, 3),), units=(1,)),
        Recipe(
            lambda layers: layers.BatchNormalization(axis=[1, 3]), ((4, 5, 2, 3),), only="tf_keras"
        ),
        Recipe(
            lambda layers: layers.BatchNormalization(axis=[3, 1]), ((4, 5, 2, 3),), only="tf_keras"
        ),
    ],
    "SyncBatchNormalization": [
        Recipe(lambda layers: layers.experimental.SyncBatchNormalization(), ((4, 5, 3),))
    ],
    "LayerNormalization": [
        Recipe(lambda layers: layers.LayerNormalization(), ((4, 5, 3),)),
        Recipe(lambda layers: layers.LayerNormalization(axis=[1, 2, 3]), ((4, 5, 2, 3),)),
        Recipe(lambda layers: layers.LayerNormalization(axis=[-2, -1]), ((4, 5, 2, 3),)),
        Recipe(
            lambda layers: layers.LayerNormalization(axis=[1, -1]), ((4, 5, 2, 3),), only="tf_keras"
        ),
        Recipe(
            lambda layers: layers.LayerNormalization(axis=[1, -1]),
            ((4, 5, 2, 3),),
            linear=False,
            only="keras",
        ),
    ],
    "RMSNormalization": [
        Recipe(lambda layers: layers.RMSNormalization(), ((4, 5, 3),)),
        Recipe(lambda layers: layers.RMSNormalization(axis=[1, 2, 3]), ((4, 5, 2, 3),)),
    ],
    "GroupNormalization": [
        Recipe(lambda layers: layers.GroupNormalization(2), ((4, 5, 6),)),
        Recipe(lambda layers: layers.GroupNormalization(2, axis=1), ((4, 6, 5),), units=(1,)),
    ],
    "PReLU": [
        Recipe(lambda layers: layers.PReLU(), ((9, 3),)),
        Recipe(lambda layers: layers.PReLU(), ((9, 5, 2, 3),)),
        Recipe(lambda layers: layers.PReLU(shared_axes=[1, 2]), ((9, 5, 2, 3),)),
        Recipe(lambda layers: layers.PReLU(shared_axes=1), ((9, 5, 2, 3),)),
        # The channels first.
        Recipe(lambda layers: layers.PReLU(shared_axes=[2, 3]), ((9, 5, 2, 3),), units=(1,)),
        Recipe(lambda layers: layers.PReLU(shared_axes=[2, -1]), ((9, 5, 2, 3),)),
        Recipe(lambda layers: layers.PReLU(shared_axes=[1, 2, 3]), ((9, 5, 2, 3),)),
    ],
}
for _rank in (1, 2, 3):
    RECIPES[f"Conv{_rank}D"] = [
        Recipe(_named(f"Conv{_rank}D", 4, 2), (_shape(_rank, 3),)),
        Recipe(_named(f"Conv{_rank}D", 4, 2, use_bias=False, strides=2), (_shape(_rank, 3),)),
        Recipe(_named(f"Conv{_rank}D", 4, 2, groups=2), (_shape(_rank, 6),)),
        Recipe(_named(f"Conv{_rank}D", 6, 1, groups=3, use_bias=False), (_shape(_rank, 3),)),
        Recipe(_named(f"Conv{_rank}D", 3, 2, groups=3), (_shape(_rank, 3),)),
    ]
    RECIPES[f"Conv{_rank}DTranspose"] = [
        Recipe(_named(f"Conv{_rank}DTranspose", 4, 2), (_shape(_rank, 3),)),
        Recipe(_named(f"Conv{_rank}DTranspose", 2, 3, strides=2), (_shape(_rank, 3),)),
    ]
    RECIPES[f"DepthwiseConv{_rank}D"] = [
        Recipe(_named(f"DepthwiseConv{_rank}D", 2), (_shape(_rank, 3),)),
        Recipe(_named(f"DepthwiseConv{_rank}D", 2, depth_multiplier=2), (_shape(_rank, 3),)),
    ]
    RECIPES[f"SeparableConv{_rank}D"] = [
        Recipe(
            _named(f"SeparableConv{_rank}D", 6, 2, depth_multiplier=2),
            (_shape(_rank, 3),),
            linear=False,
        )
    ]
    RECIPES[f"ConvLSTM{_rank}D"] = [
        Recipe(_named(f"ConvLSTM{_rank}D", 3, 2), ((2, 3, *_shape(_rank, 4)[1:]),), linear=False)
    ]
    RECIPES[f"LocallyConnected{_rank}D"] = [
        Recipe(
            _named(
                f"LocallyConnected{_rank}D",
                2,
                2,
                use_bias=data_format == "channels_last",
                implementation=implementation,
                data_format=data_format,
            ),
            (_shape(_rank, 3) if data_format == "channels_last" else (2, 3, *[4] * _rank),),
            units=(-1,) if data_format == "channels_last" else (1,),
            channels=(-1,) if data_format == "channels_last" else (1,),
            complete=implementation != 2,
        )
        for implementation in (1, 2, 3)
        for data_format in ("channels_last", "channels_first")
    ]


def _weightless(names, *arguments, on=None):
    return {name: (arguments, on) for name in names.split()}


# The arguments of layers that have no weights to train, and what to call them on: None for an
# image or, where the name says so, a sequence or a volume; `UNCALLED` where that takes more.
UNCALLED = object()
_STRINGS = np.array([["a"], ["b"]])
WEIGHTLESS = {
    **_weightless("ELU LeakyReLU ReLU Softmax ThresholdedReLU"),
    **_weightless("ActivityRegularization Flatten Identity Masking UnitNormalization"),
    **_weightless("Activation", "relu"),
    **_weightless("Lambda", lambda x: x),
    **_weightless("Permute", (2, 1, 3)),
    **_weightless("RepeatVector", 2, on=(2, 3)),
    **_weightless("Reshape", (-1,)),
    **_weightless("InputLayer", (3,), on=UNCALLED),
    **_weightless("AlphaDropout Dropout GaussianDropout GaussianNoise", 0.5),
    **_weightless("SpatialDropout1D SpatialDropout2D SpatialDropout3D", 0.5),
    **_weightless("Add Average Concatenate Maximum Minimum Multiply Subtract", on=[(2, 3), (2, 3)]),
    **_weightless("Dot", -1, on=[(2, 3), (2, 3)]),
    **_weightless("RandomBrightness RandomColorDegeneration RandomContrast RandomHue", 0.1),
    **_weightless("RandomPosterization", 4),
    **_weightless("RandomSaturation RandomSharpness RandomRotation RandomZoom", 0.1),
    **_weightless("RandomHeight RandomWidth", 0.1),
    **_weightless("RandomColorJitter RandomElasticTransform RandomErasing RandomFlip"),
    **_weightless("RandomGaussianBlur RandomGrayscale RandomInvert RandomPerspective RandomShear"),
    **_weightless("RandomTranslation", 0.1, 0.1),
    **_weightless("RandomCrop CenterCrop Resizing", 2, 2),
    **_weightless("AugMix AutoContrast CutMix Equalization MixUp RandAugment Solarization"),
    **_weightless("ContrastLimitedAdaptiveHistogramEqualization"),
    **_weightless("MaxNumBoundingBoxes", 3, on=UNCALLED),
    **_weightless("Pipeline", [], on=UNCALLED),
    **_weightless("Rescaling", 2.0),
    **_weightless("Normalization"),
    **_weightless("MelSpectrogram", on=(2, 4096)),
    **_weightless("Discretization", [0.0, 1.0]),
    **_weightless("CategoryEncoding", 4, on=np.array([[0, 1], [2, 3]])),
    **_weightless("Hashing", 4, on=_STRINGS),
    **_weightless("HashedCrossing", 4, on=[_STRINGS, _STRINGS]),
    **_weightless("IntegerLookup StringLookup TextVectorization", on=UNCALLED),
    **_weightless("DynamicLookup", 2, tf.constant(["a", "b"]), on=tf.constant(["a"])),
}
for _rank in (1, 2, 3):
    WEIGHTLESS |= {
        **_weightless(f"AveragePooling{_rank}D MaxPooling{_rank}D", 2),
        **_weightless(f"AdaptiveAveragePooling{_rank}D AdaptiveMaxPooling{_rank}D", 2),
        **_weightless(f"GlobalAveragePooling{_rank}D GlobalMaxPooling{_rank}D"),
        **_weightless(f"Cropping{_rank}D UpSampling{_rank}D ZeroPadding{_rank}D"),
    }

NOT_BUILT = {
    "Layer": "abstract",
    "Wrapper": "abstract: holds what it wraps",
    "AbstractRNNCell": "abstract",
    "PreprocessingLayer": "abstract",
    "TFSMLayer": "the weights are those of a SavedModel, of which nothing is known",
    "JaxLayer": "the weights are those of a function of JAX, of which nothing is known",
    "FlaxLayer": "the weights are those of a module of Flax, of which nothing is known",
    "TorchModuleWrapper": "the weights are those of a module of PyTorch, for another backend",
}


def build_weightless(layer_class):
    """A layer that has no weights to train, called."""
    name = layer_class.__name__
    given, inputs = WEIGHTLESS[name]
    layer = layer_class(*given)
    if inputs is None:
        rank = int(name[-2]) if name[-2:] in ("1D", "2D", "3D") else 2
        inputs = _shape(rank, 3)
    if inputs is not UNCALLED:
        layer(arguments(inputs))
    return layer
