"""pytest test_smoke.py: every script end to end on drawn digits, and what is easily got wrong. Needs no network."""

import functools
import http.server
import io
import json
import math
import re
import signal
import statistics
import struct
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from torch.distributions import Normal, kl_divergence

import ae
import common
import dcgan
import vae

HERE = Path(__file__).parent
TINY = ["--synthetic", "--epochs", "2", "--batch-size", "64", "--hidden", "64", "--latent-dim", "3"]
TINY_GAN = ["--synthetic", "--epochs", "2", "--batch-size", "32", "--width", "4"]
FLAGS = {ae: TINY, vae: TINY, dcgan: TINY_GAN}
draw_digits = functools.lru_cache(common.draw_digits)
draw_paintings = functools.lru_cache(common.draw_paintings)


@pytest.fixture(autouse=True)
def small_and_apart(monkeypatch, tmp_path):
    """Every test in a folder of its own, with 1,500 + 250 drawn digits or 138 drawn paintings, and no way to download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 40, seed))
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(n // 20, seed))
    monkeypatch.setattr(common, "PAINTINGS", "http://127.0.0.1:9/nothing-listens-here")
    monkeypatch.setattr(common, "MNIST", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no route to host")))


def is_drawn(path):
    """A PNG with a picture in it: not blank, and with more than a frame."""
    return imread(path)[..., :3].std() > 0.02


@pytest.fixture
def no_figures(monkeypatch):
    """For tests that do not look at figures: they are made, but not rendered."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **kwargs: Path(path).touch())


def same_weights(a, b):
    a, b = (torch.load(path, weights_only=True) for path in (a, b))
    nets = [net for net in ("model", "G", "D", "averaged") if net in a]
    return nets and all(torch.equal(a[net][key], b[net][key]) for net in nets for key in a[net])


# ------------------------------------------------------------------------------------------------------ end to end

FIGURES = {
    ae: ["data", "loss", "reconstructions", "worst", "latent", "prior_samples", "interpolation", "denoising"],
    vae: ["curves", "reconstructions", "samples", "interpolation", "latent", "traversal", "kl",
          "vs_ae_latent", "vs_ae_reconstructions", "vs_ae_interpolation"],
}


def test_end_to_end(capsys):
    ae.main(TINY)                                                           # leaves what vae.py compares with; a denoiser does not
    for script, flags in (ae, ["--noise", "0.3"]), (vae, ["--nll-samples", "5"]):
        name = script.__name__
        metrics = script.main(TINY + flags)
        final = metrics["final"]
        assert metrics["dataset"] == "drawn digits"
        assert json.loads(Path(f"figures/synthetic/{name}_metrics.json").read_text()) == metrics
        assert {p.name for p in Path("figures/synthetic").glob(f"{name}_*.png")} == {f"{name}_{f}.png" for f in FIGURES[script]}
        assert all(is_drawn(p) for p in Path("figures/synthetic").glob("*.png"))
        assert all(value == value and abs(value) < 1e6 for value in final.values())
        for curve in metrics["history"].values():
            assert len(curve) == 2
        train_loss = metrics["history"]["train_sse" if script is ae else "train_loss"]
        assert train_loss[1] < train_loss[0]
        log = capsys.readouterr().out
        assert re.search(r"^Epoch  2/2 - (Total )?Loss: +\d+\.\d+ - .* images/s$", log, re.M)
    assert not list(Path("figures").glob("*.*")), "a stand-in run wrote beside the figures of the real data"
    assert final["nll"] <= final["test_loss"] + 0.5                      # 5 importance samples against 1
    assert {"ae_precision", "ae_coverage", "ae_test_mse"} <= final.keys()
    assert final["floor"] < final["test_recon"] < final["mean_image"]


def test_variants():
    Path("checkpoints/synthetic").mkdir(parents=True)
    Path("checkpoints/synthetic/ae_handoff_2.pt").write_bytes(b"damaged")
    for flags in (["--likelihood", "gaussian", "--latent-dim", "2"], ["--binarize", "--latent-dim", "1", "--nll-samples", "3"]):
        metrics = vae.main(TINY + flags + ["--epochs", "1", "--limit", "300", "--out", "variant"])
        assert metrics["final"]["test_recon"] > metrics["final"]["floor"]
    assert is_drawn("variant/synthetic/vae_manifold.png") and is_drawn("variant/synthetic/vae_traversal.png")
    assert ae.main(TINY + ["--latent-dim", "2", "--epochs", "1", "--limit", "300", "--validate"])["final"]["pca_mse"] > 0


def test_same_seed_same_metrics(no_figures):
    a, b, c = (vae.main(TINY + ["--seed", seed, "--epochs", "1"]) for seed in "001")
    assert a["final"] == b["final"] and a["history"] == b["history"] != c["history"]


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_resume_equals_unbroken(script, monkeypatch, capsys, no_figures):
    checkpoint = Path(f"checkpoints/synthetic/{script.__name__}.pt")
    unbroken = script.main(FLAGS[script])
    checkpoint.rename("unbroken.pt")

    def killed_after_first_epoch(content, path, save=common.save):
        save(content, path)
        if path == checkpoint:
            signal.raise_signal(signal.SIGTERM)                                     # as kill does; Ctrl-C is the same but for the number
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(script, "save", killed_after_first_epoch)
        script.main(FLAGS[script])
    assert stop.value.code == 1 and "--resume" in capsys.readouterr().err
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1

    with pytest.raises(SystemExit):
        script.main(FLAGS[script] + ["--resume", "--lr", "0.5"])
    assert re.search(r"lr 0\.\d+, not 0\.5", capsys.readouterr().err)
    resumed = script.main(FLAGS[script] + ["--resume"])
    assert resumed["final"] == unbroken["final"] and resumed["history"] == unbroken["history"]
    assert same_weights(checkpoint, "unbroken.pt")

    good = torch.load(checkpoint, weights_only=True)
    whole = checkpoint.read_bytes()
    for bad in (whole[:1000], whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:], "of another network"):
        torch.save(dict(good, model={}, G={}), checkpoint) if bad == "of another network" else checkpoint.write_bytes(bad)
        with pytest.raises(SystemExit):
            script.main(FLAGS[script] + ["--resume"])
        assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_as_notebook_cell(script, monkeypatch, no_figures):
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 200, seed))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    text, cell = Path(script.__file__).read_text(), {"__name__": "__main__"}
    if script is dcgan:                                                         # the defaults, but for the hour that they would take
        for slow, fast in ("default=100, help", "default=1, help"), ('default=64, metavar="W"', 'default=4, metavar="W"'):
            assert text.count(slow) == 1
            text = text.replace(slow, fast)
    exec(compile(text, "<cell>", "exec"), cell)                                 # with the default flags, offline
    assert Path(f"figures/synthetic/{script.__name__}_metrics.json").exists()
    assert cell["main"](FLAGS[script] + ["--epochs", "1"])["dataset"].startswith("drawn ")
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_flags(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0 and f"(default: {100 if script is dcgan else 30})" in capsys.readouterr().out
    own = [["--width", "0"], ["--g-lr", "0"], ["--average", "1"], ["--decay", "1.5"], ["--logit-penalty", "-1"], ["--instance-noise", "inf"], ["--g-steps", "0"], ["--sample", "0"]]
    for bad in (["--epoch", "0"], ["--lr", "-1"], ["--lr", "nan"], ["--latent", "3", "--hiden", "5"], ["--batch-size", "9999", "--synthetic"],
                ["--limit", "-5"], ["--device", "abacus"], ["--device", "meta"], ["--seed", "9" * 24], *(own if script is dcgan else [["--hidden", "0"]])):
        with pytest.raises(SystemExit) as stop:
            script.main(bad)
        assert stop.value.code == 2, bad
        assert "error: " in capsys.readouterr().err
    assert not Path("figures").exists() and not Path("checkpoints").exists()


# ---------------------------------------------------------------------------------------------------------------- data
def test_drawn_digits():
    x, y = draw_digits(2000, 1)
    assert x.shape == (2000, 28, 28) and x.dtype == torch.uint8 and (y.bincount() == 200).all()
    assert torch.equal(x, draw_digits.__wrapped__(2000, 1)[0]) and not torch.equal(x, draw_digits(2000, 2)[0])
    test_x, test_y = (t[:500] for t in draw_digits(2000, 2))
    assert ae.knn_accuracy(x.flatten(1).float(), y, test_x.flatten(1).float(), test_y) > 0.9
    rows = torch.arange(28.)
    centre = (x.float().sum(2) * rows).sum(1) / x.float().sum((1, 2))
    assert abs(centre.mean() - 13.5) < 0.2 and x[:, :2].float().mean() < 1


def test_validation_digits_are_training_digits():
    x, y, test_x = common.load_digits("data", synthetic=True)[1:4]
    name, *parts = common.load_digits("data", synthetic=True, limit=7, validate=True)
    assert name == "drawn digits (validation)" and [len(part) for part in parts] == [7, 7, 250, 250] and not torch.equal(parts[2], test_x)
    assert all(torch.equal(*pair) for pair in ((parts[0], x[:7]), (parts[2], x[1250:]), (parts[3], y[1250:])))


def idx(*shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(torch.Size(shape).numel())


def test_mnist_files(capsys):
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for split, n in ("train", 20), ("t10k", 10):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(n, 28, 28))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(n))
    name, x, y, test_x, _ = common.load_digits("data", limit=15)
    assert name == "MNIST" and x.shape == (15, 784) and y.shape == (15,) and test_x.shape == (10, 784)
    for file in raw.iterdir():
        good = file.read_bytes()
        labels_of_255 = [good[:8] + b"\xff" * (len(good) - 8)] if "labels" in file.name else []
        for bad in b"", good[:-1], good[:3], b"\x1f\x8b" * 500, idx(7), idx(7, 27, 28), idx(7, 28, 28), *labels_of_255:
            file.write_bytes(bad)
            with pytest.raises(SystemExit) as stop:
                common.load_digits("data")
            assert stop.value.code == 1
        file.write_bytes(good)
    assert capsys.readouterr().err.count("is damaged or not MNIST") == 30
    file.unlink()
    assert common.load_digits("data")[0] == "drawn digits"                  # and says why
    assert "no route to host" in capsys.readouterr().out


def test_more_than_the_memory_can_hold(capsys):
    with pytest.raises(SystemExit) as stop:
        vae.main(TINY + ["--hidden", "99999999999"])
    assert stop.value.code == 1 and "out of memory" in capsys.readouterr().err


def test_metrics_that_are_not_finite():
    common.save({"final": {"nll": math.nan}, "history": [math.inf, 1.5]}, Path("odd.json"))
    assert json.loads(Path("odd.json").read_text()) == {"final": {"nll": None}, "history": [None, 1.5]}


def test_output_folder_that_cannot_be(capsys):
    Path("taken").write_text("a file")
    with pytest.raises(SystemExit) as stop:
        vae.main(TINY + ["--out", "taken"])
    assert stop.value.code == 1 and "cannot write" in capsys.readouterr().err and Path("taken").read_text() == "a file"


# --------------------------------------------------------------------------------------------------- models and losses
def small_vae(**kwargs):
    torch.manual_seed(0)
    x = torch.rand(32, 784)
    return vae.VAE(x.mean(0), [16], 4, **kwargs), x


def test_kl_is_the_closed_form():
    mu, logvar = torch.randn(2, 50, 4)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0., 1.))
    assert torch.allclose(vae.kl_divergence(mu, logvar), expected, atol=1e-5)


def test_likelihoods():
    model, x = small_vae()
    z = torch.randn(32, 4)
    expected = torch.nn.functional.binary_cross_entropy(model.decode(z), x, reduction="none").sum(1)
    assert torch.allclose(model.recon(x, z), expected, rtol=1e-4)
    model, x = small_vae(likelihood="gaussian")
    expected = -Normal(2 * model.decode(z) - 1, 0.5 ** 0.5).log_prob(2 * x - 1).sum(1)
    left_out = torch.tensor(784 / 2 * math.log(math.pi))
    assert torch.allclose(expected - model.recon(x, z), left_out, rtol=1e-4)


def test_reparameterised_gradient():
    # d/dmu E[z^2] = 2 mu and d/dlogvar E[z^2] = sigma^2, for z ~ N(mu, sigma^2)
    mu, logvar = torch.full((200_000, 1), 0.7, requires_grad=True), torch.full((200_000, 1), -0.5, requires_grad=True)
    torch.manual_seed(0)
    vae.reparameterize(mu, logvar).square().mean().backward()
    assert mu.grad.sum().item() == pytest.approx(1.4, rel=0.02)
    assert logvar.grad.sum().item() == pytest.approx(torch.tensor(-0.5).exp().item(), rel=0.02)


def test_loss_per_image_does_not_depend_on_the_batch():
    model, x = small_vae()
    with torch.no_grad():
        model.encoder[-1].bias[4:] = -30                                    # sigma ~ 0, so that two draws agree
        model.encoder[-1].weight[4:] = 0
        once, twice = (torch.stack(vae.elbo_terms(model, b)).mean(1) for b in (x, torch.cat((x, x))))
    assert torch.allclose(once, twice, rtol=1e-4)
    coder = ae.Autoencoder(x.mean(0), [16], 4)
    assert ae.evaluate(coder, x) == pytest.approx(ae.evaluate(coder, torch.cat((x, x))), rel=1e-5)


def test_importance_weighted_bound_is_tighter():
    model, x = small_vae()
    model.encoder[-1].bias.data[:4] = 2                                     # a q(z|x) far from the posterior: loose bounds
    elbo = [sum(vae.evaluate(model, x)) for _ in range(50)]
    bounds = [vae.negative_log_likelihood(model, x, samples) for samples in (1, 10, 500)]
    assert abs(bounds[0] - sum(elbo) / 50) < 1 and bounds[0] > bounds[1] > bounds[2]


def test_starts_at_the_mean_image():
    model, x = small_vae()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        assert torch.allclose(model.decode(torch.randn(3, 4)), x.mean(0).expand(3, 784), atol=1e-3)


def test_sample_metrics():
    a, b = (draw_digits(500, seed)[0].flatten(1) / 255 for seed in (1, 2))
    precision, coverage = vae.precision_coverage(a, b)
    assert precision > 0.8 and coverage > 0.8                               # two sets from one source
    assert vae.precision_coverage(1 - a, b) == (0, 0)                       # nothing like it
    precision, coverage = vae.precision_coverage(b[:1].repeat(500, 1), b)   # one real image, over and over
    assert precision == 1 and coverage < 0.1
    torch.manual_seed(0)
    z = torch.randn(5000, 3)
    assert vae.distance_from_prior(z) < 0.05 < 0.9 < vae.distance_from_prior(3 * z)


def test_latent_map_keeps_the_origin():
    z = torch.randn(500, 5) * torch.tensor([4., 1, 1, 1, 1]) + torch.tensor([50., 0, 0, 0, 0])
    ax = Figure().add_subplot()
    common.scatter_digits(ax, z, torch.arange(500) % 10, "")
    assert abs(ax.collections[0].get_offsets()[:, 0].mean()) > 40          # the circles of N(0, I) are drawn around 0


# --------------------------------------------------------------------------------------------------------------- DCGAN
GAN_FIGURES = {f"dcgan_{f}.png" for f in ("data", "curves", "swd", "progression", "samples", "real_vs_generated", "nearest", "walk")}


def test_gan_end_to_end(capsys):
    metrics = dcgan.main(TINY_GAN)
    folder = Path("figures/synthetic")
    assert json.loads((folder / "dcgan_metrics.json").read_text()) == metrics
    assert {p.name for p in folder.glob("dcgan_*.png")} == GAN_FIGURES and all(is_drawn(folder / f) for f in GAN_FIGURES - {"dcgan_samples.png"})
    with Image.open(folder / "dcgan_progression.gif") as gif:
        assert gif.n_frames == 2
    assert re.search(r"^\[  2/2\] Loss_D: \d\.\d+  Loss_G: .* images/s$", capsys.readouterr().out, re.M)
    final = metrics["final"]
    assert 0 < final["swd_real"] < final["swd"] and 0 <= final["diversity_ratio"] < 2 and 0 <= final["healthy_fraction"] <= 1
    assert final["nearest_ratio"] > 0 and all(len(curve) == 2 for curve in metrics["history"].values())

    assert dcgan.main(["--synthetic", "--sample", "7"]).shape == (7, 3, 64, 64)     # width and dimensions are the checkpoint's
    assert (folder / "dcgan_sample.png").exists()
    Path("checkpoints/synthetic/dcgan.pt").unlink()
    with pytest.raises(SystemExit):
        dcgan.main(["--synthetic", "--sample", "7"])
    assert "there is no checkpoint" in capsys.readouterr().err


def test_gan_variants(no_figures):
    flags = ["--epochs", "1", "--no-augment", "--average", "0", "--instance-noise", "0.1", "--g-steps", "2", "--spectral-norm", "--batch-size", "1", "--limit", "4"]
    assert dcgan.main(TINY_GAN + flags)["final"]["swd"] > 0


def test_gan_networks():
    G, D = dcgan.make_generator(), dcgan.make_discriminator()
    assert [sum(p.numel() for p in net.parameters()) for net in (G, D)] == [3_576_704, 2_765_568]
    image = G(torch.randn(2, 100, 1, 1))
    assert image.shape == (2, 3, 64, 64) and image.abs().max() <= 1 and D(image).shape == (2,)
    for net in G, D:
        assert all(abs(layer.weight.std() - 0.02) < 0.004 for layer in net if hasattr(layer, "kernel_size"))


def test_each_step_moves_its_own_network(monkeypatch, no_figures):
    nets, steps = {}, []
    for name in "generator", "discriminator":
        def make(*args, name=name, make=getattr(dcgan, f"make_{name}")):
            nets[name] = make(*args)
            return nets[name]
        monkeypatch.setattr(dcgan, f"make_{name}", make)

    class Watched(torch.optim.Adam):
        def step(self):
            super().step()
            own = self.param_groups[0]["params"][0] is nets["generator"][0].weight
            steps.append((own, {f"{n} {k}": v.clone() for n, net in nets.items() for k, v in net.state_dict().items()}))
    monkeypatch.setattr(torch.optim, "Adam", Watched)
    dcgan.main(TINY_GAN + ["--epochs", "1", "--limit", "96"])
    assert [is_G for is_G, _ in steps] == [False, True] * 3
    for (_, before), (is_G, after) in zip(steps, steps[1:]):
        moved = {key for key in after if not torch.equal(before[key], after[key])}
        weights = {key for key in after if re.search(r"(weight|bias)$", key)}
        assert moved & weights == {key for key in weights if key.startswith("generator" if is_G else "discriminator")}
        # D keeps no statistics at all; G's move only where it paints: for D's step, whose images G's step uses again
        assert moved - weights == (set() if is_G else {key for key in after if "running" in key or "num_batches" in key})


def test_augment():
    torch.manual_seed(0)
    x = (2 * torch.rand(64, 3, 64, 64) - 1).requires_grad_()
    y = dcgan.augment(x)
    assert y.shape == x.shape and y.abs().max() <= 1 and not torch.equal(x, y)
    y.sum().backward()
    assert (x.grad[(x.grad != 0)] == 1).all() and 0.7 < x.grad.mean() < 0.95     # each pixel passes once, or is moved out
    ramp = torch.linspace(-1, 1, 64).expand(64, 3, 64, 64)
    rises = (dcgan.augment(ramp).diff(dim=3) > 0).float().mean((1, 2, 3))
    assert 16 < (rises > 0.5).sum() < 48                                         # half of them are mirrored
    D, faint = dcgan.make_discriminator(8).double(), 0.3 * x                     # D is blind to contrast, but not behind black edges
    torch.manual_seed(0)
    seen = dcgan.augment(x)
    torch.manual_seed(0)
    change = lambda a, b: ((D(a.double()) - D(b.double())).abs().mean() / D(a.double()).std()).item()
    assert change(x, faint) < 0.1 < 0.3 < change(seen, dcgan.augment(faint))


def test_sliced_wasserstein():
    x = draw_paintings(138, 1).float() / 255
    a, b = x[:69], x[69:]
    mean = lambda fake: sum(dcgan.sliced_wasserstein(fake, a)) / 3
    blurred = [torch.nn.functional.avg_pool2d(a, k, 1, k // 2, count_include_pad=False) for k in (1, 3, 7)]
    noised = [a + s * torch.randn(a.shape, generator=torch.Generator().manual_seed(0)) for s in (0.05, 0.2)]
    assert mean(a) == 0 < mean(b) == mean(b)
    assert mean(blurred[0]) < mean(blurred[1]) < mean(blurred[2]) and mean(a) < mean(noised[0]) < mean(noised[1])
    assert mean(b) < mean(0.5 * b + 0.25)                                        # a loss of contrast counts


def test_nearest_diversity_repetition():
    x = draw_paintings(138, 1)
    copies = torch.roll(x[:20].flip(3), 2, 2).float() / 255                       # mirrored and moved copies are found out
    distance, index = dcgan.nearest(copies, x)
    assert index.tolist() == list(range(20)) and distance.max() < 0.5 * dcgan.nearest(x[100:].float() / 255, x[:100])[0].mean()
    one = x[:1].float().expand(69, -1, -1, -1) / 255
    assert dcgan.compare(one, x)["diversity_ratio"] < 0.01 and 0.8 < dcgan.compare(x[69:].float() / 255, x)["diversity_ratio"] < 1.2
    real = x.float() / 255
    marked = real + 0.3 * (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5)      # the same marks in all of them
    assert dcgan.repetition(one) == pytest.approx(1) and dcgan.repetition(real) < 0.05 < 0.3 < dcgan.repetition(marked)


# ----------------------------------------------------------------------------------------------------- folders of images
def test_odd_images(capsys):
    folder = Path("mine/deep er")
    folder.mkdir(parents=True)
    x = draw_paintings(138, 1)[0].permute(1, 2, 0).numpy()
    image = Image.fromarray(x)
    image.save(folder / "a.png")
    image.resize((200, 90)).convert("CMYK").save(folder / "b.jpg", quality=95)
    image.convert("P").save(folder / "c.bmp")
    image.save(folder / "d.jpg", format="WEBP")                                   # a wrong suffix
    image.convert("LA").save(folder / "e.png")
    Image.new("RGBA", (5, 300), (255, 0, 0, 0)).save(folder / "f.PNG")            # wholly transparent: white
    Image.new("I;16", (64, 64), 32768).save(folder / "g.png")
    Image.new("1", (1, 1), 1).save(folder / "h.gif")
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:400])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not an image, and not called one")
    (folder / ".hidden.jpg").write_bytes(b"Finder's")
    name, images = common.load_paintings("mine")
    out = capsys.readouterr().out
    assert name == "mine" and images.shape == (8, 3, 64, 64) and images.dtype == torch.uint8
    assert "2 unreadable images left out: broken.jpg, empty.png" in out
    assert torch.equal(images[0].permute(1, 2, 0), torch.from_numpy(x))
    assert (images[5] == 255).all() and (images[6].float() - 128).abs().max() <= 1 and (images[7] == 255).all()
    for bad in "nowhere", "mine/empty", "mine/notes.txt":
        Path("mine/empty").mkdir(exist_ok=True)
        with pytest.raises(SystemExit) as stop:
            common.load_paintings(bad)
        assert stop.value.code == 1 and "--data" in capsys.readouterr().err


def test_download(monkeypatch, capsys, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for i, image in enumerate(draw_paintings(138, 1)[:6]):
            png = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(png, "PNG")
            z.writestr(f"Abstract_gallery{'_2' * (i % 2)}/Abstract_gallery/{i}.png", png.getvalue())

    class Kaggle(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/start":                                             # Kaggle's endpoint redirects to a store
                self.send_response(302)
                self.send_header("Location", "/store?signed")
                return self.end_headers()
            self.send_response(404 if self.path == "/404" else 200)
            self.send_header("Content-Length", len(buffer.getvalue()))
            self.end_headers()
            if self.path == "/stall":
                return done.wait(20)
            self.wfile.write(buffer.getvalue()[:300 if self.path == "/broken" else None])

        def log_message(self, *args):
            pass
    done, server = threading.Event(), http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kaggle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(common, "PATIENCE", 0.3)                                  # 10 s would be 10 s
    for path, words in ("/404", "404"), ("/broken", ""), ("/stall", "nothing came for 0.3 s"):
        monkeypatch.setattr(common, "PAINTINGS", f"http://127.0.0.1:{server.server_port}{path}")
        name, x = common.load_paintings("data/abstract_art")
        out = capsys.readouterr().out
        assert name == "drawn paintings" and "their download failed" in out and words in out
        assert not list(Path("data").glob("abstract_art*")), "half a download was left behind"
    monkeypatch.setattr(common, "PAINTINGS", f"http://127.0.0.1:{server.server_port}/start")
    name, x = common.load_paintings("data/abstract_art")
    assert name == "abstract_art" and x.shape == (6, 3, 64, 64)
    server.server_close()
    done.set()
    monkeypatch.setattr(common, "PAINTINGS", "http://127.0.0.1:9/")
    assert common.load_paintings("data/abstract_art")[0] == "abstract_art"         # is not downloaded twice


# -------------------------------------------------------------------------------------------------------------- README
def test_readme_images_and_links():
    text, drawn = (HERE / "README.md").read_text(), {script.__name__: Path(script.__file__).read_text() for script in (ae, vae, dcgan)}
    for image in re.findall(r"figures/[\w./-]+\.(?:png|gif)", text):
        script, _, content = Path(image).name.partition("_")
        assert is_drawn(HERE / image), image
        assert Path(image).name in drawn[script] or f'"{Path(content).stem}"' in drawn[script], f"{image} is of no script's making"
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert link[1:] in headings if link[0] == "#" else (HERE / link).exists(), link


def test_readme_commands():
    text = (HERE / "README.md").read_text()
    commands = re.findall(r"python (ae|vae|dcgan)\.py([^`|&#>\n]*)", text)
    assert len(commands) > 30
    for script, flags in commands:
        {"ae": ae, "vae": vae, "dcgan": dcgan}[script].parse_args(flags.replace("PATH", "folder").split())
    edits = re.findall(r"`([^`]+)` -> `", text)                                    # of a line in a script, each possible and unambiguous
    assert edits and all(any(Path(script.__file__).read_text().count(line) == 1 for script in (ae, vae, dcgan)) for line in edits), edits


def test_readme_numbers():
    """59.3<!--dcgan final.swd--> is from figures/dcgan_metrics.json; 59.3 ± 0.4<!--a,b,c final.swd-->: mean and standard deviation of three."""
    text = (HERE / "README.md").read_text()
    marked = re.findall(r"([\d.,]+)(%?)(?: ± ([\d.,]+)%?)?<!--(\S+) (\S+)-->", text)
    assert len(marked) == text.count("<!--") > 100
    metrics = functools.lru_cache(lambda run: json.loads((HERE / "figures" / f"{run}_metrics.json").read_text()))
    for mean, percent, spread, runs, keys in marked:
        values = []
        for run in runs.split(","):
            values.append(0)
            for key in keys.split("+"):                                            # a sum of two
                value = metrics(run)
                for part in key.split("."):
                    value = value[int(part)] if isinstance(value, list) else value[part]
                values[-1] += 100 * value if percent else value
        expected = [of(values) for of in ((statistics.mean, statistics.stdev) if len(values) > 1 else (statistics.mean,))]
        shown = [number for number in (mean, spread) if number]
        assert shown == [f"{value:,.{len(number.partition('.')[2])}f}" for number, value in zip(shown, expected)] and len(shown) == len(expected), (
            f"{runs} {keys}: README says {shown}, the runs {expected}")
