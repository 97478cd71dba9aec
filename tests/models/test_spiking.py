"""The spiking family: snnTorch is the oracle for its spikes and gradients, and a NIR file says what the model says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustidps.bundle.audit import OPERATORS
from robustidps.errors import BundleError, ConfigError
from robustidps.families import Standardised, TrainingContext, family_settings, get_family
from robustidps.models._lif import write_onnx
from robustidps.models.spiking import Spiking, SpikingSettings, _network_class, load_native
from robustidps.nir import Identity, LIFLayer, LIFNetwork, read_nir, write_nir
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle

torch = pytest.importorskip("torch")
snn = pytest.importorskip("snntorch")
nir = pytest.importorskip("nir")

CLASSES, INPUTS = 3, 6
CODINGS = ["direct", "latency"]


def rows(n: int, seed: int = 0) -> Standardised:
    x = np.random.default_rng(seed).normal(size=(n, INPUTS)).astype(np.float32)
    return Standardised(x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5))


def train(weights=None, data=None, validation=None, **settings):
    chosen = SpikingSettings(**({"hidden": (24, 20), "epochs": 4} | settings))
    w = np.ones(CLASSES, np.float32) if weights is None else np.asarray(weights, np.float32)
    return Spiking().train(chosen, data or rows(600), validation or rows(200, 1), TrainingContext(CLASSES, w))


@pytest.fixture(scope="module", params=CODINGS)
def model(request):
    return train(coding=request.param)


def input_steps(model, x):
    """What goes in at each step, float64 [T, N, D]: the features, or snnTorch's own latency code of them."""
    settings = model.settings
    if settings.coding == "direct":
        return torch.from_numpy(x).double().expand(settings.steps, -1, -1)
    from snntorch import spikegen

    share = (torch.from_numpy(np.hstack([x, -x])) / settings.span).clamp(0, 1)
    options = {"threshold": 1e-9, "clip": True, "linear": True, "normalize": True}
    return spikegen.latency(share, num_steps=settings.steps, **options).double()


def snntorch_spikes(network, inputs, slope=2.0):
    """Spikes [T, N, neurons] of each layer, from snnTorch's neurons one step at a time."""
    surrogate = snn.surrogate.atan(alpha=slope)
    neurons = [snn.Leaky(beta=network.beta, reset_mechanism="zero", spike_grad=surrogate) for _ in network.layers]
    potentials = [neuron.init_leaky() for neuron in neurons]
    out = [[] for _ in neurons]
    for value in inputs:
        for k, (layer, neuron) in enumerate(zip(network.layers, neurons, strict=True)):
            value, potentials[k] = neuron(layer(value.to(layer.weight.dtype)), potentials[k])
            out[k].append(value)
    return [torch.stack(spikes) for spikes in out]


def test_every_neuron_fires_as_in_snntorch(model):
    x = rows(300, 2).x
    theirs = load_twin(model).double()
    with torch.no_grad():
        theirs = [s.sum(0).numpy() for s in snntorch_spikes(theirs, input_steps(model, x))]
    for ours, counts in zip(model.spikes(x), theirs, strict=True):
        assert (ours == counts).all() and counts.sum() > 0


def load_twin(model):
    """A copy of its network, to be changed without harm."""
    twin = _network_class()(INPUTS, CLASSES, model.settings)
    twin.load_state_dict(model.network.state_dict())
    return twin


@pytest.mark.parametrize(("coding", "slope"), [("direct", 2.0), ("latency", 2.0), ("direct", 5.0)])
def test_gradients_are_those_of_snntorch(coding, slope):
    """Of the spike counts and of the penalty on firing rates."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = SpikingSettings(hidden=(24, 20), steps=10, coding=coding, slope=slope)
        ours = _network_class()(INPUTS, CLASSES, settings)
    with torch.no_grad():
        for layer in ours.layers:
            layer.weight *= 3
    model = type("Model", (), {"settings": SpikingSettings(steps=10, coding=coding)})
    data, chosen = rows(32), torch.linspace(-1, 1, CLASSES)
    ((ours(torch.from_numpy(data.x)) * chosen).sum() + 100 * ours.rate).backward()
    gradients = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    *hidden, last = snntorch_spikes(ours, input_steps(model, data.x), slope)
    rate = sum(s.sum() for s in hidden) / sum(s.numel() for s in hidden)
    ((last.sum(0) * chosen).sum() + 100 * rate).backward()
    for mine, parameter in zip(gradients, ours.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, rtol=1e-3, atol=1e-3 * float(mine.abs().max()))
        assert mine.abs().max() > 0


def simulate(graph, inputs):
    """A NIR graph in NumPy float64, node after node along its edges: spikes [T, N, neurons] of each LIF."""
    following, name, out = dict(graph.edges), "input", []
    dt, steps = graph.metadata["dt"], int(graph.metadata["T"])
    value = inputs
    while (name := following[name]) != "output":
        node = graph.nodes[name]
        if isinstance(node, nir.Affine):
            value = value @ node.weight.T + node.bias
            continue
        v = np.broadcast_to(node.v_reset, value.shape[1:])
        spikes = np.zeros_like(value)
        for t in range(steps):
            v = v + dt / node.tau * (node.v_leak - v) + dt / node.tau * node.r * value[t]
            spikes[t] = v > node.v_threshold
            v = np.where(spikes[t] > 0, node.v_reset, v)
        value = spikes
        out.append(spikes)
    return out


def test_the_nir_file_simulated_in_float64_says_what_the_model_says(model, tmp_path):
    model.save_native(tmp_path)
    graph = nir.read(tmp_path / "model.nir")
    assert graph.metadata["reset"] == "zero" and graph.metadata["T"] == 25 and graph.metadata["dt"] > 0
    x = rows(400, 3).x
    simulated = [s.sum(0) for s in simulate(graph, input_steps(model, x).numpy())]
    assert (simulated[-1].argmax(1) == model.logits(x).argmax(1)).all()
    for ours, theirs in zip(model.spikes(x), simulated, strict=True):
        # float32 against float64: a potential may come to lie on the other side of the threshold, hardly ever.
        assert (ours != theirs).mean() < 1e-3 and theirs.sum() > 0


def test_snntorch_reads_the_nir_file_and_counts_the_same_spikes(model, tmp_path):
    """A second reader: its graph of the file (through nirtorch), its neurons, one step at a time."""
    from snntorch.import_nir import import_from_nir

    write_nir(tmp_path / "model.nir", model.arrays)
    theirs = import_from_nir(nir.read(tmp_path / "model.nir"))
    x, state, counts = rows(300, 3).x, None, 0
    with torch.no_grad():
        for value in input_steps(model, x).float():
            spikes, state = theirs(value, state) if state else theirs(value)
            counts = counts + spikes.numpy()
    assert counts.sum() > 0
    assert (counts != model.logits(x)).mean() < 1e-3  # as above: sums of currents are in another order
    assert (counts.argmax(1) == model.logits(x).argmax(1)).mean() > 0.99


def test_a_nir_file_says_whose_it_is_and_another_models_is_refused(tmp_path):
    whose = Identity("edge", "1.2.0", "ab" * 32)
    context = TrainingContext(
        CLASSES, np.ones(CLASSES, np.float32), name=whose.name, version=whose.version, schema_digest=whose.schema_digest
    )
    Spiking().train(SpikingSettings(hidden=(4,), epochs=1), rows(100), rows(50, 1), context).save_native(tmp_path)
    path = tmp_path / "model.nir"
    metadata = nir.read(path).metadata
    assert {key: metadata[key] for key in ("name", "version", "schema_digest")} == vars(whose)
    assert read_nir(path).identity == read_nir(path, whose).identity == whose
    for other in (
        replace(whose, name="core"),
        replace(whose, version="1.3.0"),
        replace(whose, schema_digest="cd" * 32),
    ):
        with pytest.raises(BundleError, match=r"edge 1\.2\.0 for schema abababababab, not ") as refused:
            read_nir(path, other)
        assert "model.nir" in str(refused.value)
    with pytest.raises(BundleError, match="nameless model for schema unknown"):
        read_nir(graph_of(plain, tmp_path), whose)


def test_a_bundle_has_its_name_version_and_schema_in_its_nir_file_and_its_cost_in_its_metrics(tmp_path):
    traffic = toy_traffic()
    half = len(traffic) // 2
    settings = SpikingSettings(hidden=(8,), epochs=1)
    made = train_bundle(
        Spiking(), settings, traffic.select(slice(0, half)), traffic.select(slice(half, None)),
        name="edge", version="0.3.0", out=tmp_path / "bundle",
    ).bundle  # fmt: skip
    read_nir(tmp_path / "bundle/native/model.nir", Identity("edge", "0.3.0", made.schema.digest))
    assert {"firing_rate_1", "firing_rate_2", "spikes", "synaptic_operations", "neuron_updates"} <= set(
        made.metadata.performance_metrics
    )


def test_what_is_read_from_a_nir_file_is_what_was_written(model, tmp_path):
    write_nir(tmp_path / "model.nir", model.arrays)
    read, written = read_nir(tmp_path / "model.nir"), model.arrays
    assert (read.steps, read.coding, read.span) == (written.steps, written.coding, written.span)
    for a, b in zip(read.layers, written.layers, strict=True):
        assert (a.weights == b.weights).all() and (a.bias == b.bias).all()
        assert (a.beta, a.threshold) == (b.beta, b.threshold) == (3686 / 4096, 1.0)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_exported_graph_counts_the_same_spikes(model, tmp_path, batch):
    onnxruntime = pytest.importorskip("onnxruntime")
    model.export_onnx(tmp_path / "logits.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "logits.onnx"), providers=["CPUExecutionProvider"])
    x = rows(batch, 4).x
    (logits,) = session.run(["logits"], {"x": x})
    assert logits.dtype == np.float32 and (logits == model.logits(x)).all()


def test_the_exported_graph_has_allowed_operators_alone(model, tmp_path):
    import onnx

    model.export_onnx(tmp_path / "logits.onnx")
    graph = onnx.load(tmp_path / "logits.onnx").graph
    assert {node.op_type for node in graph.node} <= OPERATORS[""]


def test_sums_of_weights_are_exact_in_float32_in_whatever_order(model):
    spikes = (np.random.default_rng(5).random((500, 24)) < 0.4).astype(np.float32)
    layer = model.network.layers[1]
    with torch.no_grad():
        single = layer(torch.from_numpy(spikes)).numpy()
        turned = torch.nn.functional.linear(torch.from_numpy(spikes[:, ::-1].copy()), layer.weight.flip(1), layer.bias)
    double = spikes.astype(np.float64) @ layer.weight.detach().numpy().astype(np.float64).T
    double += layer.bias.detach().numpy().astype(np.float64)
    assert (single == double).all() and (turned.numpy() == double).all()


def test_logits_are_spike_counts_and_a_tie_goes_to_the_lowest_class(model):
    logits = model.logits(rows(500, 6).x)
    assert (logits == model.spikes(rows(500, 6).x)[-1]).all()
    assert logits.min() >= 0 and logits.max() <= model.settings.steps
    silent = load_twin(model)
    with torch.no_grad():
        silent.layers[-1].weight.zero_()
        silent.layers[-1].bias.zero_()
    assert (type(model)(silent, model.settings).logits(rows(5).x).argmax(1) == 0).all()


@pytest.mark.parametrize("coding", CODINGS)
def test_it_learns(coding):
    trained, held_out = train(coding=coding, data=rows(2000), hidden=(48, 48), epochs=12), rows(500, 9)
    accuracy = (trained.logits(held_out.x).argmax(1) == held_out.y).mean()
    assert accuracy > 0.68 > 0.55 > np.bincount(held_out.y).max() / 500


def test_the_penalty_on_firing_rates_lowers_them():
    free, thrifty = (train(rate_penalty=p).figures(rows(300, 7).x) for p in (0.0, 100.0))
    assert thrifty["firing_rate_1"] < 0.8 * free["firing_rate_1"]
    assert thrifty["firing_rate_2"] < 0.8 * free["firing_rate_2"]
    assert thrifty["synaptic_operations"] < free["synaptic_operations"]


def test_figures_are_what_counting_one_by_one_gives(model):
    n, steps = 6, 25
    x = rows(n, 8).x
    x[0, 0] = 0  # fires never under latency coding, and is a current like others under direct coding
    going_in = input_steps(model, x)
    with torch.no_grad():
        spikes = [s.numpy() > 0 for s in snntorch_spikes(load_twin(model).double(), going_in)]
    arriving = [going_in.numpy() != 0 if model.settings.coding == "latency" else np.ones(going_in.shape, bool), *spikes]
    operations = updates = fired = 0
    for t in range(steps):
        for row in range(n):
            for before, layer, after in zip(arriving, model.network.layers, spikes, strict=False):
                for source in range(layer.in_features):
                    if before[t, row, source]:
                        for _ in layer.weight[:, source]:
                            operations += 1
                for neuron in range(layer.out_features):
                    updates += 1
                    fired += bool(after[t, row, neuron])
    figures = model.figures(x)
    assert figures["synaptic_operations"] == pytest.approx(operations / n) and operations > 0
    assert figures["neuron_updates"] == pytest.approx(updates / n)
    assert figures["spikes"] == pytest.approx(fired / n) and fired > 0
    for k, (layer, size) in enumerate(zip(spikes, (24, 20, CLASSES), strict=True), 1):
        assert figures[f"firing_rate_{k}"] == pytest.approx(sum(layer.ravel().tolist()) / (n * steps * size))


def test_counts_mean_the_same_whatever_the_class_weights():
    y = (np.random.default_rng(0).random(2000) < 0.2).astype(np.int64)
    data = Standardised(np.zeros((2000, INPUTS), np.float32), y)  # nothing to learn but how often each class occurs
    trained = train([0.5, 3.0, 0.0], data, data, epochs=8, weight_decay=0, stop_on="loss", rate_penalty=0)
    z = trained.logits(data.x[:1])[0, :2].astype(np.float64)
    # Whole numbers come no closer to ln(0.2 / 0.8) = -1.4 than this; with the tilt of ln 6 left in, it would be over 0.
    assert z[1] - z[0] in (-1, -2)


def test_the_native_artefact_gives_the_same_model_back(model, tmp_path):
    model.save_native(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors", "config.json", "model.nir"}
    x = rows(100, 6).x
    assert (load_native(tmp_path).logits(x) == model.logits(x)).all()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"inputs": 6', '"inputs": 7'))
    with pytest.raises(BundleError):
        load_native(tmp_path)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (
        np.concatenate([p.detach().numpy().ravel() for p in train(seed=s, epochs=1).network.parameters()])
        for s in (3, 3, 4)
    )
    assert (first == again).all() and not (first == other).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("beta", 1.0),
        ("beta", [0.9, 0.8]),
        ("hidden", []),
        ("hidden", [0]),
        ("coding", "rate"),
        ("rate_penalty", -1),
        ("slope", 0),
        ("surrogate", "sigmoid"),
    ],
)
def test_a_bad_setting_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key):
        family_settings(get_family("spiking"), {key: value})


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("learn_beta", True, "one fixed decay"),
        ("beta", [0.9] * 256, "one fixed decay"),
        ("reset_mechanism", "subtract", "starts from zero"),
        ("reset", "subtract", "starts from zero"),
        ("threshold", 2.0, "weights scale with it"),
        ("learn_threshold", True, "weights scale with it"),
    ],
)
def test_what_lava_cannot_compute_is_refused_before_training_with_the_reason(key, value, why):
    with pytest.raises(ConfigError, match=f"'{key}'.*Lava") as refused:
        family_settings(get_family("spiking"), {key: value})
    assert why in str(refused.value)


# --- NIR files that aren't what they should be


def graph_of(edit, tmp_path):
    """A small NIR file, with `edit` applied to its graph before it is written."""
    rng = np.random.default_rng(0)
    shapes = [(4, INPUTS), (CLASSES, 4)]
    layers = [LIFLayer(rng.normal(size=shape), rng.normal(size=shape[0]), 0.875, 1.0) for shape in shapes]
    path = tmp_path / "model.nir"
    write_nir(path, LIFNetwork(tuple(layers), 5, "direct", 3.0))
    graph = nir.read(path)
    edit(graph, rng)
    nir.write(path, graph)
    return path


def nan(graph, rng):
    graph.nodes["affine_1"].weight[0, 0] = np.nan


def two_ways(graph, rng):
    graph.edges.append(("lif_0", "output"))
    graph.nodes["output"] = nir.Output(output_type={"output": np.array([4])})
    graph.edges.remove(("lif_1", "output"))


def loop(graph, rng):
    """Both layers lead to each other; nothing but the edges is wrong, as all widths are the same."""
    width = len(graph.nodes["lif_0"].tau)
    graph.nodes["affine_1"] = nir.Affine(weight=np.eye(width), bias=np.zeros(width))
    graph.nodes["affine_2"] = nir.Affine(weight=np.eye(width), bias=np.zeros(width))
    graph.nodes["lif_1"] = graph.nodes["lif_2"] = graph.nodes["lif_0"]
    graph.nodes["output"] = nir.Output(output_type={"output": np.array([width])})
    graph.edges = [("input", "affine_0"), ("affine_0", "lif_0"), ("lif_0", "output")]
    graph.edges += [("affine_1", "lif_1"), ("lif_1", "affine_2"), ("affine_2", "lif_2"), ("lif_2", "affine_1")]


def detached(graph, rng):
    graph.edges = [("input", "output"), ("affine_0", "lif_0"), ("lif_0", "affine_1"), ("affine_1", "lif_1")]


def unknown(graph, rng):
    n = len(graph.nodes["lif_0"].tau)
    graph.nodes["lif_0"] = nir.IF(r=np.ones(n), v_threshold=np.ones(n))


def shapes(graph, rng):
    graph.nodes["affine_1"].weight = rng.normal(size=(CLASSES, 9))


def bias(graph, rng):
    graph.nodes["affine_1"].bias = np.zeros(CLASSES + 1)


def subtracting(graph, rng):
    graph.metadata["reset"] = "subtract"


def timeless(graph, rng):
    del graph.metadata["T"]


def many_decays(graph, rng):
    graph.nodes["lif_0"].tau[1] *= 2


def leaking_elsewhere(graph, rng):
    graph.nodes["lif_0"].v_leak[:] = 0.5


def misnamed(graph, rng):
    graph.metadata["name"] = "../../etc"


def misversioned(graph, rng):
    graph.metadata["version"] = "newest"


def undigested(graph, rng):
    graph.metadata["schema_digest"] = "flow64"


def uncoded(graph, rng):
    del graph.metadata["coding"]


def out_of_time(graph, rng):
    graph.metadata["dt"] = -1.0


def plain(graph, rng):
    return


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (nan, "affine_1.*weight.*finite"),
        (loop, "each once"),
        (two_ways, "no single next node"),
        (detached, "each once|isn't a NIR"),
        (unknown, "IF"),
        (shapes, r"mismatch|shape"),
        (bias, "bias.*shape"),
        (subtracting, "subtract"),
        (timeless, "T 0"),
        (many_decays, "tau differs"),
        (leaking_elsewhere, "v_leak 0.5"),
        (misnamed, "metadata.*etc"),
        (misversioned, "metadata.*newest"),
        (undigested, "metadata.*flow64"),
        (uncoded, "coding"),
        (out_of_time, "dt -1"),
    ],
)
def test_a_nir_file_with_a_defect_is_refused(edit, words, tmp_path):
    assert read_nir(graph_of(plain, tmp_path)).steps == 5
    with pytest.raises(BundleError, match=words) as refused:
        read_nir(graph_of(edit, tmp_path))
    assert str(tmp_path / "model.nir") in str(refused.value)


def test_a_file_that_is_cut_off_or_none_at_all_is_refused(tmp_path):
    path = graph_of(plain, tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BundleError, match="can be read"):
        read_nir(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(BundleError, match="can be read"):
        read_nir(path)
    with pytest.raises(BundleError, match="can be read"):
        read_nir(tmp_path / "missing.nir")


@pytest.mark.parametrize("trick", ["link to another file", "data of another file", "circle", "bomb"])
def test_a_file_that_plays_tricks_is_refused_before_it_is_read(trick, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = graph_of(plain, tmp_path)
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(800))
    with h5py.File(path, "a") as file:
        nodes = file["node/nodes"]
        if trick == "link to another file":
            nodes["extra"] = h5py.ExternalLink("/etc/passwd", "/")
        elif trick == "data of another file":
            nodes.create_dataset("extra", shape=(100,), dtype="f8", external=[(str(other), 0, 800)])
        elif trick == "circle":
            nodes["extra"] = file["node"]
        else:
            nodes.create_dataset("extra", shape=(2**20, 2**12), dtype="f8", chunks=(1, 2**12), compression="gzip")
    words = {
        "link to another file": "is a link",
        "data of another file": "plain data",
        "circle": "deep",
        "bomb": "MiB",
    }
    with pytest.raises(BundleError, match=words[trick]):
        read_nir(path)


@pytest.mark.parametrize("threshold", [0.3, 1.0, 5.0])
def test_the_exported_graph_fires_over_the_threshold_and_not_at_it(threshold, tmp_path):
    """A neuron for each of the float32 at, just below and just over the threshold, whose bias alone is its current."""
    onnxruntime = pytest.importorskip("onnxruntime")
    at = np.float32(threshold)
    bias = np.array([np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(9)), -9, 1e30], np.float64)
    network = LIFNetwork((LIFLayer(np.zeros((5, 2)), bias, 0.0, float(at)),), 4, "direct", 3.0)
    write_onnx(tmp_path / "logits.onnx", network)
    session = onnxruntime.InferenceSession(str(tmp_path / "logits.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((3, 2), np.float32)})[0].tolist() == [[0, 0, 4, 0, 4]] * 3


def test_a_single_step_is_exported_too(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    for coding in CODINGS:
        small = train(coding=coding, steps=1, epochs=1)
        small.export_onnx(tmp_path / "logits.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "logits.onnx"), providers=["CPUExecutionProvider"])
        x = rows(50, 4).x
        assert (session.run(None, {"x": x})[0] == small.logits(x)).all()
