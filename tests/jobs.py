"""What the processes of a cluster run: `python -m jobs NAME ARGUMENTS`, in JSON both ways."""

import json
import os
import pathlib
import re
import signal
import sys

import keras
import model_cases as cases
import tensorflow as tf
import tf_keras

import tfreg

APIS = {"keras": keras, "tf_keras": tf_keras}


def dataset():
    return tf.data.Dataset.from_tensor_slices(cases.data()).batch(cases.BATCH)


def end_at(step, optimizer):
    """Ends this process as the machine would, if that many steps are done."""
    if step is not None and int(tf.convert_to_tensor(optimizer.iterations)) == step:
        os.kill(os.getpid(), signal.SIGKILL)


def multi_worker_fit(api_name, epochs, backup=None, killed_at=None, penalized=True):
    api = APIS[api_name]
    build = cases.penalized_in_every_way if penalized else cases.sequential
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = cases.compiled(build(api), api)
        cases.set_initial_weights(model)
    end = api.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: end_at(killed_at, model.optimizer)
    )
    callbacks = [end] if backup is None else [api.callbacks.BackupAndRestore(backup), end]
    history = model.fit(dataset(), epochs=epochs, verbose=0, callbacks=callbacks)
    return {"losses": history.history["loss"], "kernels": kernels(model)}


def documented_step(api):
    """The train step that docs/distributed.md gives for a custom loop, for Keras 3 or tf_keras."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
    [code] = re.findall(r"^```python\n(def distributed_step.*?)^```$", page, re.M | re.S)
    if api is tf_keras:
        code = code.replace("model.optimizer.scale_loss(value)", "value")
    names = {"tf": tf, "tfreg": tfreg}
    exec(code, names)
    return names["distributed_step"]


def multi_worker_loop(api_name, epochs, backup=None, killed_at=None):
    api = APIS[api_name]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = cases.compiled(cases.penalized_in_every_way(api), api)
        cases.set_initial_weights(model)
        model.optimizer.build(model.trainable_weights)
        loss = api.losses.MeanSquaredError(reduction="none")
    step = documented_step(api)(strategy, model, loss)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    first = 0
    if backup is not None:
        latest = tf.train.latest_checkpoint(f"{backup}/0")
        if latest is not None:
            checkpoint.restore(latest).assert_existing_objects_matched()
            first = int(tf.convert_to_tensor(model.optimizer.iterations)) // cases.BATCHES
    losses = []
    for epoch in range(first, epochs):
        of_epoch = []
        for batch in strategy.experimental_distribute_dataset(dataset()):
            of_epoch.append(float(step(batch)))
            end_at(killed_at, model.optimizer)
        losses.append(sum(of_epoch) / len(of_epoch))
        if backup is not None:
            # Each worker saves, as the variables are read together; the first one's counts.
            index = strategy.cluster_resolver.task_id
            checkpoint.save(f"{backup}/{index}/epoch")
    return {"losses": losses, "kernels": kernels(model)}


def multi_worker_proximal(api_name, epochs, build="with_proximal_steps"):
    api = APIS[api_name]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = globals()[build](api)
        model.optimizer.build(model.trainable_weights)
        loss = api.losses.MeanSquaredError(reduction="none")
    if api is tf_keras:
        model.fit(dataset(), epochs=epochs, verbose=0)
    else:  # whose fit fails
        step = documented_step(api)(strategy, model, loss)
        for _ in range(epochs):
            for batch in strategy.experimental_distribute_dataset(dataset()):
                step(batch)
    return {"kernels": kernels(model)}


def multi_worker_board(api_name, folder):
    api = APIS[api_name]
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        # Reading moving statistics takes all workers.
        model = api.Sequential([cases.sequential(api), api.layers.BatchNormalization()])
        tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
        model.compile("sgd", "mse")
    metrics, board = tfreg.callbacks.PenaltyMetrics(), tfreg.callbacks.TensorBoard(folder)
    return model.fit(dataset(), epochs=2, verbose=0, callbacks=[metrics, board]).history


def with_proximal_steps(api):
    model = cases.sequential(api)
    optimizer = tfreg.Proximal(
        api.optimizers.SGD(cases.RATE, momentum=0.5),
        model,
        [
            ([model.layers[-2]], tfreg.GroupLasso(0.3, axis="input")),
            ([model.layers[-3], model.layers[-1]], tfreg.Joint(tfreg.GroupLasso(0.1, axis="all"))),
        ],
    )
    model.compile(optimizer, api.losses.MeanSquaredError())
    cases.set_initial_weights(model)
    return model


def with_a_budget(api):
    model = cases.sequential(api)
    budget = tfreg.Budget(groups=5, begin=1, end=9, heal=10, every=2)
    optimizer = tfreg.Proximal(api.optimizers.Adam(cases.RATE), model, budget)
    model.compile(optimizer, api.losses.MeanSquaredError())
    cases.set_initial_weights(model)
    return model


def server():
    """A worker or a parameter server; a coordinator tells it what to do until it is ended."""
    task = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    tf.distribute.Server(
        task.cluster_spec(), job_name=task.task_type, task_index=task.task_id, protocol="grpc"
    ).join()


def coordinator(shards):
    """The strategy of the process that tells the others what to do."""
    partitioner = None
    if shards:
        partitioner = tf.distribute.experimental.partitioners.FixedShardsPartitioner(shards)
    return tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.TFConfigClusterResolver(), variable_partitioner=partitioner
    )


def one_batch():
    """Which worker takes which step is not known, so all steps are alike, one after the other."""
    return dataset().take(1).repeat()


STEPS = 6


def penalized_for_servers(api, penalized=True):
    build = cases.penalized_in_every_way if penalized else cases.sequential
    model = cases.compiled(build(api), api)
    for layer, value in zip(model.layers, cases.initial_weights(), strict=True):
        layer.kernel.assign(value)
    return model


def parameter_server_fit(api_name, shards=None, penalized=True):
    api = APIS[api_name]
    with coordinator(shards).scope():
        model = penalized_for_servers(api, penalized)
    return report(model, fit_one_batch(model))


def fit_one_batch(model):
    history = model.fit(one_batch(), epochs=STEPS, steps_per_epoch=1, verbose=0)
    return history.history["loss"]


def parameter_server_loop(api_name, shards=None, penalized=True):
    api = APIS[api_name]
    strategy = coordinator(shards)
    servers = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        model = penalized_for_servers(api, penalized)
        model.optimizer.build(model.trainable_weights)
        loss = api.losses.MeanSquaredError(reduction="none")
    take_step = documented_step(api)(strategy, model, loss)
    take_next = tf.function(lambda batches: take_step(next(batches)))
    distributed = servers.create_per_worker_dataset(
        lambda: strategy.experimental_distribute_dataset(one_batch())
    )
    batches = iter(distributed)
    steps = range(STEPS)
    losses = [float(servers.schedule(take_next, args=(batches,)).fetch()) for _ in steps]
    return report(model, losses)


def report(model, losses):
    """What is left of a penalized model after its training."""
    return {
        "losses": losses,
        "penalties": float(sum(model.losses)),
        "attached": [
            [str(attached.penalty), attached.paths, [list(w.shape) for w in attached.weights]]
            for attached in tfreg.get_penalties(model)
        ],
        "kernels": [tf.convert_to_tensor(layer.kernel).numpy().tolist() for layer in model.layers],
    }


def kernels(model):
    return [kernel.tolist() for kernel in cases.kernels(model)]


if __name__ == "__main__":
    name, arguments = sys.argv[1:]
    # As in conftest.py: with TF32 sums on a GPU are not those of one process to 1e-5.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    print(json.dumps(globals()[name](**json.loads(arguments))))
