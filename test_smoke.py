"""pytest test_smoke.py: every script end to end on drawn digits, and what is easily got wrong. Needs no network."""

import functools
import json
import math
import re
import struct
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.distributions import Normal, kl_divergence

import ae
import common
import vae

HERE = Path(__file__).parent
TINY = ["--synthetic", "--epochs", "2", "--batch-size", "64", "--hidden", "64", "--latent-dim", "3"]
draw_digits = functools.lru_cache(common.draw_digits)


@pytest.fixture(autouse=True)
def small_and_apart(monkeypatch, tmp_path):
    """Every test in a folder of its own, with 1,500 drawn training digits and 250 test digits, and no way to download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 40, seed))
    monkeypatch.setattr(common, "MNIST", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no route to host")))


def is_drawn(path):
    """A PNG with a picture in it: not blank, and with more than a frame."""
    return imread(path)[..., :3].std() > 0.02


@pytest.fixture
def no_figures(monkeypatch):
    """For tests that do not look at figures: they are made, but not rendered."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **kwargs: Path(path).touch())


def same_weights(a, b):
    a, b = (torch.load(path, weights_only=True)["model"] for path in (a, b))
    return all(torch.equal(a[key], b[key]) for key in a)


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
    assert ae.main(TINY + ["--latent-dim", "2", "--epochs", "1", "--limit", "300"])["final"]["pca_mse"] > 0


def test_same_seed_same_metrics(no_figures):
    a, b, c = (vae.main(TINY + ["--seed", seed, "--epochs", "1"]) for seed in "001")
    assert a["final"] == b["final"] and a["history"] == b["history"] != c["history"]


@pytest.mark.parametrize("script", [ae, vae])
def test_resume_equals_unbroken(script, monkeypatch, capsys, no_figures):
    checkpoint = Path(f"checkpoints/synthetic/{script.__name__}.pt")
    unbroken = script.main(TINY)
    checkpoint.rename("unbroken.pt")

    def killed_after_first_epoch(content, path, save=common.save):
        save(content, path)
        if path == checkpoint:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(script, "save", killed_after_first_epoch)
        script.main(TINY)
    assert stop.value.code == 1 and "--resume" in capsys.readouterr().err
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1

    with pytest.raises(SystemExit):
        script.main(TINY + ["--resume", "--lr", "0.5"])
    assert "lr 0.003, not 0.5" in capsys.readouterr().err
    resumed = script.main(TINY + ["--resume"])
    assert resumed["final"] == unbroken["final"] and resumed["history"] == unbroken["history"]
    assert same_weights(checkpoint, "unbroken.pt")

    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(SystemExit):
        script.main(TINY + ["--resume"])
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("script", [ae, vae])
def test_as_notebook_cell(script, monkeypatch, no_figures):
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 200, seed))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    cell = {"__name__": "__main__"}
    exec(compile(Path(script.__file__).read_text(), "<cell>", "exec"), cell)    # with the default flags, offline
    assert Path(f"figures/synthetic/{script.__name__}_metrics.json").exists()
    assert cell["main"](TINY + ["--epochs", "1"])["dataset"] == "drawn digits"
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("script", [ae, vae])
def test_flags(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0 and "(default: 30)" in capsys.readouterr().out
    for bad in (["--epoch", "0"], ["--lr", "-1"], ["--lr", "nan"], ["--latent", "3", "--hiden", "5"], ["--batch-size", "9999", "--synthetic"],
                ["--hidden", "0"], ["--limit", "-5"], ["--device", "abacus"]):
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
        for bad in b"", good[:-1], good[:3], b"\x1f\x8b" * 500, idx(7), idx(7, 27, 28):
            file.write_bytes(bad)
            with pytest.raises(SystemExit) as stop:
                common.load_digits("data")
            assert stop.value.code == 1
        file.write_bytes(good)
    assert capsys.readouterr().err.count("is damaged or not MNIST") == 24
    file.unlink()
    assert common.load_digits("data")[0] == "drawn digits"                  # and says why
    assert "no route to host" in capsys.readouterr().out


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


# -------------------------------------------------------------------------------------------------------------- README
def test_readme():
    text = (HERE / "README.md").read_text()
    for image in re.findall(r"figures/[\w./-]+\.(?:png|gif)", text):
        assert is_drawn(HERE / image), image
