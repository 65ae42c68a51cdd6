"""The exercises, each script end to end on drawn images, and what is easily got wrong.

    pytest test_smoke.py                      all, in about a minute, without a network
    pytest test_smoke.py -k kl_divergence     one exercise: your vae.kl_divergence
"""

import functools
import inspect
import json
import math
import re
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from torch.distributions import Bernoulli, Normal, kl_divergence

import ae
import common
import dcgan
import vae

torch.set_num_threads(1)  # for such small models faster than to wait for each other
HERE = Path(__file__).parent
TINY = "--device cpu --synthetic --epochs 2 --batch-size 64 --hidden 64 --latent-dim 3".split()
TINY_GAN = "--device cpu --synthetic --epochs 2 --batch-size 32 --width 4 --limit 125".split()
FLAGS = {ae: TINY, vae: TINY, dcgan: TINY_GAN}
draw_digits = functools.cache(common.draw_digits)
draw_paintings = functools.cache(common.draw_paintings)


@pytest.fixture(autouse=True)
def small_and_apart(monkeypatch, tmp_path):
    """A folder of its own, 1,500 + 250 drawn digits, and no network."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 40, seed))
    monkeypatch.setattr(common, "draw_paintings", draw_paintings)
    monkeypatch.setattr(common, "MNIST", None)  # its call fails, as without a network
    monkeypatch.setattr(common, "download_and_extract_archive", None)


@pytest.fixture
def no_figures(monkeypatch):
    """For tests that do not look at figures: they are made, but not rendered."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **kwargs: None)


def error_of(call, *args):
    """The exit status, or the message of one line, with which a call ends."""
    with pytest.raises(SystemExit) as stop:
        call(*args)
    assert "\n" not in str(stop.value.code)
    return stop.value.code


def check(actual, expected, hint, rtol=1e-3, atol=1e-4):
    assert isinstance(actual, type(expected)), f"Returns {type(actual)}, not {type(expected)}"
    message = (hint + "\n{}").format  # {}: how the two differ
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=message)


# --------------------------------------------------- exercises
# A test for each function of the exercises. None needs another of them.
def test_squared_error():
    x = torch.rand(5, 784)
    error = ae.squared_error(x, x + 0.5)
    assert error.shape == (5,), "One number per image: a sum over dimension 1?"
    check(error, torch.full((5,), 784 / 4), "Squared? Summed over pixels, not averaged?")


def test_pca():
    x = 3 + torch.randn(100, 8) @ torch.randn(8, 784)
    mean, directions = ae.pca(x, 3)
    assert directions.shape == (784, 3), "Directions are columns: [:, -k:]?"
    codes = (x - mean) @ directions
    lost = (x - mean - codes @ directions.T).square().sum()
    least = torch.linalg.svdvals(x - x.mean(0))[3:].square().sum()
    check(lost, least, "The largest eigenvalues? Of the covariance?")


def test_reparameterize():
    mu = torch.full((100_000, 2), 3.0, requires_grad=True)
    logvar = torch.full((100_000, 2), math.log(4), requires_grad=True)
    z = vae.reparameterize(mu, logvar)
    hint = "Their mean is not mu: randn? One draw for each number?"
    check(z.mean(0), mu[0], hint, rtol=0.01)
    hint = "Their spread is not sigma = exp(logvar / 2)"
    check(z.std(0), torch.full((2,), 2.0), hint, rtol=0.01)
    assert z.T.corrcoef()[0, 1].abs() < 0.02, "One draw per dimension?"

    assert z.requires_grad, "No gradient can pass from z to mu and logvar"
    # d/dmu E[z^2] = 2 mu and d/dlogvar E[z^2] = sigma^2, for z ~ N(mu, sigma^2)
    loss = z.square().sum() / 100_000
    to_mu, to_logvar = torch.autograd.grad(loss, (mu, logvar), materialize_grads=True)
    check(to_mu.sum(0), 2 * mu[0], "The gradient does not reach mu", rtol=0.02)
    check(to_logvar.sum(0), logvar[0].exp(), "It does not reach logvar", rtol=0.05)


def test_kl_divergence():
    mu, logvar = torch.randn(2, 50, 4)
    kl = vae.kl_divergence(mu, logvar)
    assert kl.shape == (50, 4), "One number per image and dimension?"
    assert kl.mean() > 0, "A KL is never negative: the sign?"
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    check(kl, expected, "Is logvar log sigma^2, not sigma? 1/2? mu squared?")


def test_reconstruction_loss():
    x = torch.rand(6, 784)
    model = vae.VAE(x.mean(0), [16], 4)
    for z in torch.randn(6, 4), torch.randn(5, 6, 4):  # one code per image, or five
        model.likelihood = "bernoulli"
        loss = model.reconstruction_loss(x, z)
        expected = -Bernoulli(model.decode(z), validate_args=False).log_prob(x).sum(-1)
        check(loss, expected, "Cross-entropy of logits? Summed, not averaged?")

        model.likelihood = "gaussian"
        loss = model.reconstruction_loss(x, z) + 392 * math.log(2 * math.pi / 8)
        expected = -Normal(model.decode(z), 8**-0.5).log_prob(x).sum(-1)
        check(loss, expected, "4 (x - sigmoid(logits))^2? Summed, not averaged?")


def test_log_weights():
    mu, logvar = torch.tensor([[[-2.0, 1.0]], [[0.5, -1.0]]]).expand(2, 3, 2)
    model, draws = SimpleNamespace(encode=lambda x: (mu, logvar)), []

    def reconstruction_loss(x, z):
        draws.append(z)
        return z.abs().sum(-1)

    model.reconstruction_loss = reconstruction_loss
    log_w = vae.log_weights(model, torch.rand(3, 784), 10_000)
    z, q, prior = draws[0], Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)
    assert z.shape == (10_000, 3, 2), "Draws are (samples, B, k)?"
    check(z.mean(0), q.mean, "Draws from q(z|x): their mean is not mu", atol=0.1)
    check(z.std(0), q.stddev, "Draws from q(z|x): sigma = exp(logvar / 2)?", atol=0.1)
    expected = (prior.log_prob(z) - q.log_prob(z)).sum(-1) - z.abs().sum(-1)
    check(log_w, expected, "-reconstruction_loss + log p(z) - log q(z|x), summed over k?")


def test_coverage():
    # Row n has n white pixels, so rows a and b differ in |a - b| pixels.
    bars = (torch.arange(784) < torch.arange(70)[:, None]).float()
    real, fake = bars[::10], torch.cat((bars[65:66], torch.ones(7, 784)))
    # The fifth neighbour is 50, 40, 30, 30, 30, 40, 50 pixels away, the nearest fake
    # 65, 55, 45, 35, 25, 15, 5.
    hint = "A share of the real ones? Is the nearest of all real ones the image itself?"
    check(vae.coverage(fake, real), 3 / 7, hint)
    hint = "Pixels above 0.5 count as white, in both?"
    check(vae.coverage(0.6 * fake, 0.9 * real), 3 / 7, hint)


def test_make_generator():
    G = dcgan.make_generator()
    n = sum(p.numel() for p in G.parameters())
    assert n == 3_576_704, f"{n:,} parameters, not 3,576,704: no biases? BatchNorms?"
    n = sum(isinstance(layer, nn.ReLU) for layer in G.modules())
    assert n == 4, f"{n} ReLU: one after each BatchNorm?"
    check(next(G.parameters()).std().item(), 0.02, "Ends in .apply(initialise)?", rtol=0.05)

    G = dcgan.make_generator(width=4, latent_dim=5)
    assert next(G.parameters()).shape == (5, 32, 4, 4), "Are width and latent_dim used?"
    for p in G.parameters():
        p.data *= 100  # strong contrasts
    images = G(torch.randn(7, 5, 1, 1))
    assert images.shape == (7, 3, 64, 64), "Strides and paddings?"
    assert -1 <= images.min() < 0 and images.max() <= 1, "Pixels in [-1, 1]: tanh?"


def test_make_discriminator():
    D = dcgan.make_discriminator()
    n = sum(p.numel() for p in D.parameters())
    assert n == 2_765_568, f"{n:,} parameters, not 2,765,568: no biases? BatchNorms?"
    n = sum(isinstance(layer, nn.LeakyReLU) for layer in D.modules())
    assert n == 4, f"{n} LeakyReLU: one after each convolution but the last?"
    check(next(D.parameters()).std().item(), 0.02, "Ends in .apply(initialise)?", rtol=0.05)

    D, x = dcgan.make_discriminator(width=4), 2 * torch.rand(16, 3, 64, 64) - 1
    for p in D.parameters():
        p.data *= 100
    logits = D(x)
    assert logits.shape == (16,), "One number per image, (B,): flattened?"
    assert logits.abs().max() > 1, "Logits, not probabilities: no sigmoid?"
    last = [layer for layer in D.modules() if isinstance(layer, nn.Conv2d)][-1]
    check(last.weight.norm().item(), 1.0, "Spectral normalisation of the last layer?")
    black = D[:2](-torch.ones(1, 3, 64, 64))
    check(black.std((2, 3)), torch.zeros(1, 4), "Padded with black, which is -1?")


def test_discriminator_loss():
    real, fake = 2 * torch.randn(2, 50)
    loss = dcgan.discriminator_loss(real, fake)
    assert loss.shape == (), "One number: the mean over the batch?"
    assert not loss.isnan(), "nan, the log of a negative logit: D = sigmoid(logit)?"
    better = dcgan.discriminator_loss(real + 1, fake - 1)
    assert better < loss, "More for real, less for fake is better: the signs?"
    expected = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    check(loss, expected, "-log D(x) - log(1 - D(G(z))): means, not sums? Not halved?")
    sure = torch.tensor([200.0, -200.0])  # and wrong in one of two cases
    hint = "sigmoid rounds to 0 or 1, and log 0 is infinite: F.logsigmoid?"
    check(dcgan.discriminator_loss(sure, sure), torch.tensor(200.0), hint)


def test_generator_loss():
    fake = 2 * torch.randn(50)
    loss = dcgan.generator_loss(fake)
    assert loss.shape == (), "One number: the mean over the batch?"
    assert dcgan.generator_loss(fake + 1) < loss, "G wants D to say more: the sign?"
    expected = -fake.sigmoid().log().mean()
    check(loss, expected, "-log D(G(z)), not log(1 - D(G(z)))? A mean, not a sum?")
    hint = "sigmoid rounds to 0, and log 0 is infinite: F.logsigmoid?"
    check(dcgan.generator_loss(torch.tensor([-200.0])), torch.tensor(200.0), hint)


def test_repetition():
    x, mark = torch.rand(10, 3, 64, 64), torch.rand(1, 3, 64, 64)
    check(dcgan.repetition(mark.expand_as(x)), 1.0, "1 if all are the same?")
    check(dcgan.repetition(x), 0.1, "1 / N with nothing in common?", rtol=0.05)
    hint = "A mark that all share: square of the mean over mean of the squares?"
    check(dcgan.repetition(x + mark), 0.55, hint, rtol=0.05)
    check(dcgan.repetition(x + 1), dcgan.repetition(x), "Of detail(x), not of brightness?")


# -------------------------------------------------- end to end
@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_end_to_end(script, capsys):
    name, out = script.__name__, Path("figures/synthetic")
    metrics = script.main(FLAGS[script])
    assert json.loads((out / f"{name}_metrics.json").read_text()) == metrics
    assert metrics["args"].items() <= torch.load(out / f"{name}.pt")["args"].items()
    assert all(len(curve) == 2 for curve in metrics["history"].values())
    final = metrics["final"]
    committed = json.loads((HERE / f"figures/{name}_metrics.json").read_text())
    assert final.keys() == committed["final"].keys()
    assert all(math.isfinite(value) for key, value in final.items() if key != "nll")

    figures = re.findall(rf"{name}_\w+\.(?:png|gif)", Path(script.__file__).read_text())
    not_drawn = set(figures) - {path.name for path in out.iterdir()}
    assert not_drawn == ({"vae_manifold.png"} if script is vae else set())  # only for k = 2
    assert [*Path().glob("*"), *Path("figures").glob("*")] == [Path("figures"), out]

    log, progress_line = capsys.readouterr()
    line = r"^(Epoch  2/2 - Loss: |Epoch  2/2 - Total Loss: .* - KL: |"
    line += r"\[  2/2\] Loss_D: .*  Loss_G: .*  D\(x\): .*  D\(G\(z\)\): .*/)"
    assert re.search(line, log, re.M) and not progress_line


def test_variants():
    flags = "--likelihood gaussian --latent-dim 2 --limit 300"
    final = vae.main(TINY + flags.split())["final"]
    assert final["nll"] is None and final["floor"] == 0
    assert Path("figures/synthetic/vae_manifold.png").exists()
    final = vae.main(TINY + "--binarize --latent-dim 1 --validate".split())["final"]
    assert 0 < final["nll"] <= final["test_loss"] and final["floor"] == 0
    metrics = dcgan.main(TINY_GAN + "--digits --bf16 --epochs 1".split())
    assert metrics["dataset"] == "drawn digits" and metrics["args"]["data"] == "data"


def test_resume_equals_unbroken(no_figures, monkeypatch):
    def resume(*flags):
        return dcgan.main([*TINY_GAN, "--resume", *flags])

    path = Path("figures/synthetic/dcgan.pt")
    unbroken, weights = dcgan.main(TINY_GAN), torch.load(path)
    path.unlink()
    assert "cannot be read: " in error_of(resume)
    dcgan.main(TINY_GAN + ["--epochs", "1"])
    assert "has lr 0.0002, not 0.5" in error_of(resume, "--lr", "0.5")
    resumed = resume()
    assert resumed["final"] == unbroken["final"]
    assert resumed["history"] == unbroken["history"]
    for net in ("G", "D", "G_ema"):
        check(torch.load(path)[net], weights[net], net, rtol=0, atol=0)

    assert "already has 2 epochs" in error_of(resume, "--epochs", "1")
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(100, seed))
    assert "has images 125, not 90" in error_of(resume)
    for damaged in path.read_bytes()[:1000], b"":
        path.write_bytes(damaged)
        assert "cannot be read: " in error_of(resume)


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_as_notebook_cell(script, no_figures, monkeypatch):
    shown = []

    def display(image, display_id=None, update=None):
        shown.append((display_id, update))

    ipython = SimpleNamespace(get_ipython=lambda: None, version_info=(9, 0))
    ipython.display = SimpleNamespace(display=display, Image=str)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(160, seed))
    text = Path(script.__file__).read_text()
    text = re.sub(r'("--(epochs|width)", type=int, default=)\d+', r"\g<1>2", text)
    exec(compile(text, "<cell>", "exec"), {"__name__": "__main__"})
    assert Path(f"figures/synthetic/{script.__name__}_metrics.json").exists()
    if script is dcgan:  # the second epoch's samples replace the first one's
        assert [how for name, how in shown if "dcgan_samples" in str(name)] == [False, True]


# ---------------------------------------------------- mistakes
@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_flags(script, capsys):
    mistakes = ["--epochs 0", "--lr -1", "--latent-dim 0", "--hiden 5", "--limit 0"]
    mistakes += ["--device gpu", "--device cuda:99"]
    mistakes += ["--width 0", "--average 1"] if script is dcgan else ["--hidden 0"]
    for flags in mistakes:
        assert error_of(script.main, flags.split()) == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert not list(Path().iterdir())


def test_mistakes_that_end_in_one_line(no_figures):
    Path("taken").write_text("a file")
    for script in ae, vae, dcgan:
        error = error_of(script.main, FLAGS[script] + ["--out", "taken"])
        assert "cannot write taken" in error
        error = error_of(script.main, FLAGS[script] + ["--lr", "1e30"])
        assert "no finite loss in epoch 1" in error
    assert "too few" in error_of(dcgan.main, TINY_GAN + ["--batch-size", "999"])

    for name in ("empty", "other", "damaged"):
        Path(name).mkdir()
    Path("other/a.gif").write_bytes(b"")
    Path("damaged/a.png").write_bytes(b"")
    for folder, error in [
        ("nowhere", "there is no such folder"),
        ("taken", "there is no such folder"),
        ("empty", "has no files"),
        ("other", "has only .gif"),
        ("damaged", "no image could be read"),
    ]:
        assert error in error_of(dcgan.main, ["--data", folder])


# -------------------------------------------------------- data
def test_mnist(monkeypatch):
    def mnist(folder, train, download):
        n = 20 if train else 10
        return SimpleNamespace(data=torch.full((n, 28, 28), 255), targets=torch.zeros(n))

    monkeypatch.setattr(common, "MNIST", mnist)
    name, x, _, test_x, _ = common.load_digits("data")
    assert name == "MNIST" and x.shape == (20, 784) and test_x.shape == (10, 784)
    assert x.min() == x.max() == 1


def test_odd_images(capsys):
    folder = Path("絵画/deep er")
    (folder / ".hidden").mkdir(parents=True)
    image = Image.fromarray(draw_paintings(100, 1)[0].movedim(0, 2).numpy())
    for name in ("a.png", "._a.png", ".hidden/a.png"):
        image.save(folder / name)
    image.resize((200, 90)).convert("CMYK").save(folder / "b.jpg")
    image.convert("LA").save(folder / "c.PNG")
    Image.new("I;16", (70, 70), 30_000).save(folder / "d.png")
    Image.new("RGBA", (70, 70)).save(folder / "e.png")  # all transparent
    Image.new("P", (70, 70)).save(folder / "f.png", transparency=0)
    Image.new("F", (70, 70), 0.5).save(folder / "g.tiff")
    (folder / "h.jpg").write_bytes((folder / "b.jpg").read_bytes()[:400])
    (folder / "i.jpg").write_text("<html>404</html>")
    (folder / "notes.txt").write_text("not an image")

    name, x = common.load_paintings("絵画")
    assert name == "??" and x.shape == (6, 3, 64, 64) and x.dtype == torch.uint8
    assert torch.equal(x[0], draw_paintings(100, 1)[0])
    assert set(x[3].unique().tolist()) <= {116, 117}  # 30,000 / 257
    assert x[4:].min() == 255  # what is transparent lies on white
    log = capsys.readouterr().out
    assert "left out: 3" in log and "g.tiff: its pixels are floats" in log


def test_images_without_detail():
    Path("white").mkdir()
    for i in range(30):
        Image.new("RGB", (64, 64), "white").save(f"white/{i}.png")
    flags = "--device cpu --epochs 1 --width 4 --limit 27 --data white"
    metrics = dcgan.main(flags.split())
    assert metrics["final"]["repetition_real"] is None  # 0 / 0
    text = Path("figures/dcgan_metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == metrics


def test_download_of_paintings(monkeypatch, capsys):
    def break_off(url, part, images, filename):
        Path(images).mkdir()
        raise OSError("connection lost")

    def succeed(url, part, images, filename):
        Path(images).mkdir()
        Image.new("RGB", (80, 64)).save(f"{images}/0.png")

    for download, name in (break_off, "drawn paintings"), (succeed, "abstract_art"):
        monkeypatch.setattr(common, "download_and_extract_archive", download)
        assert common.load_paintings("data/abstract_art")[0] == name
    assert "connection lost" in capsys.readouterr().out
    assert list(Path("data").iterdir()) == [Path("data/abstract_art")]


# ---------------------------------------- autoencoder and VAE
def test_one_wild_image_has_no_huge_gradient(monkeypatch):
    norms = []

    class Watched(torch.optim.Adam):
        def step(self):
            gradients = [p.grad.flatten() for p in self.param_groups[0]["params"]]
            norms.append(torch.cat(gradients).norm().item())
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    x = torch.rand(64, 784)
    x[0] *= 1000
    vae.train(vae.VAE(x[1], [16], 4), x, x[1:], vae.parse_args(["--epochs", "1"]))
    assert norms == pytest.approx([100], rel=1e-3)


def test_loss_per_image_does_not_depend_on_the_batch():
    x = torch.rand(32, 784)
    model, coder = vae.VAE(x.mean(0), [16], 4), ae.Autoencoder(x.mean(0), [16], 4)
    model.encoder[-1].weight.data[4:] = 0
    model.encoder[-1].bias.data[4:] = -30  # sigma ~ 0, so that two draws agree
    twice = torch.cat((x, x))
    assert vae.evaluate(model, x) == pytest.approx(vae.evaluate(model, twice), rel=1e-4)
    assert ae.evaluate(coder, x) == pytest.approx(ae.evaluate(coder, twice), rel=1e-4)


@torch.no_grad()
def test_importance_sampling_finds_the_likelihood():
    x = torch.rand(4, 784)
    model = vae.VAE(x.mean(0), [16], 1)  # one dimension: p(x) is an integral over a line
    model.encoder[-1].bias.data = torch.tensor([1.5, 1.0])  # far from the posterior
    z = torch.linspace(-8, 8, 4001).view(-1, 1, 1).expand(-1, 4, 1)
    log_joint = Normal(0, 1).log_prob(z)[..., 0] - model.reconstruction_loss(x, z)
    exact = -(log_joint.logsumexp(0) + math.log(16 / 4000)).mean().item()
    estimate = vae.negative_log_likelihood(model, x, 20_000)
    assert estimate == pytest.approx(exact, abs=0.1)


def test_measures_of_digits():
    for name in ("nearest_labels", "accuracy", "agreement"):
        assert inspect.getsource(getattr(ae, name)) == inspect.getsource(getattr(vae, name))
    _, x, y, real, labels = common.load_digits("data", synthetic=True)
    votes = ae.nearest_labels(real, x, y)
    blends = ae.nearest_labels((real + real.roll(-1, 0)) / 2, x, y)
    noise = ae.nearest_labels(torch.rand(250, 784), x, y)
    assert ae.accuracy(votes, labels) > 0.9
    assert ae.agreement(votes) > 0.6 > ae.agreement(blends) > 0.1 > ae.agreement(noise)
    one = x[:1].expand(250, 784)
    assert ae.coverage(x[:250], real) > 0.95 > 0.1 > ae.coverage(one, real)


# ------------------------------------------------------- DCGAN
def small_gan():
    torch.manual_seed(0)
    return dcgan.make_generator(4), dcgan.make_discriminator(4)


def train_gan(G, D, *flags):
    """Two steps an epoch, on 64 paintings. Returns G's average and the history."""
    args = dcgan.parse_args([*TINY_GAN, "--epochs", "1", "--limit", "64", *flags])
    G.bf16 = D.bf16 = args.bf16
    x, z = draw_paintings(100, 1)[:64], torch.randn(64, 100, 1, 1)
    return dcgan.train(G, D, x, x[:8] / 255, z, args, "", Path())[:2]


def test_each_step_moves_its_own_network(monkeypatch, no_figures):
    G, D = small_gan()
    weights = [(G[0].weight.clone(), D[1].weight.clone())]

    class Watched(torch.optim.Adam):
        def step(self):
            super().step()
            weights.append((G[0].weight.clone(), D[1].weight.clone()))

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    G_ema, _ = train_gan(G, D)
    still = [
        [torch.equal(a, b) for a, b in zip(before, after)]
        for before, after in zip(weights, weights[1:])
    ]
    assert still == 2 * [[True, False], [False, True]]  # D's step, then G's
    assert dcgan.epoch_size(64, 64) == 64  # as asked for with --limit, but otherwise
    assert dcgan.epoch_size(400, 60_000) == 2000 and dcgan.epoch_size(2498, 60_000) == 2498
    mean = (weights[2][0] + weights[4][0]) / 2
    check(G_ema.module[0].weight, mean, "The average begins as a plain mean", 0, 1e-6)


def test_bfloat16(no_figures):
    changes = []
    for flags in [], ["--bf16"]:
        G, D = small_gan()
        G_ema, history = train_gan(G, D, *"--lr 1e-2 --average 0".split(), *flags)
        assert torch.equal(G_ema.module[0].weight, G[0].weight)  # an average with decay 0
        changes.append(history["D_G_z2"][0] - history["D_G_z1"][0])
        assert D(G(torch.randn(2, 100, 1, 1))).dtype == torch.float32
        assert history["D_x"] > history["D_G_z1"]  # D is not asked to swap real and fake
    # D's step changes D(G(z)) as much: the second pass of D does not use old weights.
    assert changes[0] != changes[1] == pytest.approx(changes[0], rel=0.2)


def test_measures_of_paintings():
    real, x = (draw_paintings(2776, 1)[:200] / 255).split(100)
    blurred = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    fog = F.interpolate(F.avg_pool2d(x, 16), scale_factor=16, mode="bilinear")
    tiles = F.unfold(x, 8, stride=8)[:, :, torch.randperm(64)]
    tiles = F.fold(tiles, 64, 8, stride=8)
    grain = x + 0.1 * torch.randn_like(x)
    swd = [dcgan.sliced_wasserstein(fake, real) for fake in (x, blurred, fog, tiles, grain)]
    assert 3 * swd[0] < min(swd[1:]) and swd[1] < swd[2]
    features, real_features = dcgan.random_features(x), dcgan.random_features(real)
    assert dcgan.coverage(features, real_features) > 0.9
    assert dcgan.coverage(features[:1], real_features) < 0.1

    copies = real[:40] + 0.02 * torch.randn(40, 3, 64, 64)
    distance, index = dcgan.nearest(copies, (255 * real).byte())
    assert index.tolist() == list(range(40))
    assert distance.max() < 0.6 * dcgan.nearest(copies, (255 * x).byte())[0].median()

    white = torch.full((40, 3, 64, 64), 255).byte()
    white[32:] = 0  # and black where a batch is not full
    D_x = dcgan.mean_D(lambda x: x.mean((1, 2, 3)), white, 16)
    assert D_x == pytest.approx(1 / (1 + math.exp(-1)))  # the sigmoid of white, 1


# ------------------------------------------------------ README
README = (HERE / "README.md").read_text(encoding="utf-8")
README_CELLS = re.findall(r"```py\n(.*?)```", README, re.S)
SOURCES = "".join(Path(script.__file__).read_text() for script in (ae, vae, dcgan))


def cell_with(text):
    [cell] = [cell for cell in README_CELLS if text in cell]
    return cell


def test_readme_images_and_links():
    titles = re.findall(r"^#+ (.+)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert link[1:] in anchors if link[0] == "#" else (HERE / link).exists(), link


def test_readme_commands_and_edits():
    scripts = {"ae": ae, "vae": vae, "dcgan": dcgan}
    commands = re.findall(r"python (ae|vae|dcgan)\.py([^`|&#>\n]*)", README)
    assert len(commands) > 20
    for script, flags in commands:
        scripts[script].parse_args(flags.replace("PATH", "folder").split())
    edits = re.findall(r"`([^`]+)`\s+->\s+`", README)
    assert len(edits) > 15
    for line in edits:
        assert line in SOURCES, line


def test_readme_quotes_code():
    quotes = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(quotes) >= 8
    for quote in quotes:  # which stand there without their indentation
        indented = [textwrap.indent(quote, " " * n) for n in (0, 4, 8, 12)]
        assert any(text in SOURCES for text in indented), quote


def test_readme_tasks_have_tests():
    tasks = re.findall(r"^\| `([\w.]+)` .* \| `pytest test_smoke.py -k (\w+)` \|$", README, re.M)
    assert len(tasks) == 12
    for name, test in tasks:
        assert callable(eval(name))
        assert [t for t in globals() if test in t] == [test]


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_readme_and_docstring_show_the_committed_run(script, committed_figures, capsys):
    metrics = json.loads((HERE / f"figures/{script.__name__}_metrics.json").read_text())
    script.report(metrics["final"], 0, SimpleNamespace(**metrics["args"]), Path())
    assert capsys.readouterr().out.rpartition("torch ")[0] in README
    printed = script.__doc__.partition("    python ")[2].partition("\n\n")[2]
    assert textwrap.dedent(printed) in README
    numbers = re.findall(r"\d+\.\d{3}", printed.splitlines()[0])  # of the last epoch
    curves = [f"{curve[-1]:.3f}" for curve in metrics["history"].values()]
    assert numbers and numbers == curves[: len(numbers)]


@pytest.mark.parametrize("text", ["class CVAE", "importance_weighted_bound", "class Augment"])
def test_readme_experiments(text, no_figures, monkeypatch):
    monkeypatch.setattr(vae, "elbo_terms", vae.elbo_terms)  # one cell replaces it,
    monkeypatch.setattr(dcgan, "make_discriminator", dcgan.make_discriminator)  # another this
    cell = cell_with(text).replace('"--data", "PATH"', '"--synthetic", "--limit", "48"')
    exec(re.sub(r'"(30|32|40)"', '"2"', cell), {})
    assert list(Path("figures").glob("**/*_metrics.json"))


def test_readme_first_aid_figure():
    cell = cell_with("dcgan_first_aid")
    for run in re.findall(r'": "(\w+|\w+-\w+)"', cell):
        Path("figures/aid", run).mkdir(parents=True)
        frames = [torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)]
        torch.save({"frames": frames}, f"figures/aid/{run}/dcgan.pt")
    exec(cell, {})
    assert Path("figures/aid/dcgan_first_aid.png").exists()


def test_readme_explorer_samples_and_comparison(no_figures, monkeypatch):
    small = "--hidden 8 --latent-dim 2 --epochs 1 --synthetic --device cpu".split()
    ae.main(small)
    vae.main(small)
    dcgan.main(TINY_GAN + "--digits --epochs 1 --limit 48".split())
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    variables = {}
    exec(cell_with("mpl_connect").replace("figures/k2", "figures/synthetic"), variables)
    variables["draw"](SimpleNamespace(inaxes=variables["plane"], xdata=1.0, ydata=-1.0))
    assert variables["image"].get_array().max() > 0

    cell = cell_with("generate(G, torch.randn(64").replace("figures/", "figures/synthetic/")
    exec(cell.replace("generator()", "generator(4)"), variables)
    assert variables["images"].shape == (64, 3, 64, 64)

    cell = cell_with("there_and_back").replace("figures/digits", "figures/synthetic")
    cell = cell.replace("10_000", "200").replace("[768, 512], 32", "[8], 2")
    exec(cell.replace("generator(32)", "generator(4)").replace("(n, 32)", "(n, 2)"), {})
    final = json.loads(Path("figures/synthetic/compare_metrics.json").read_text())["final"]
    assert final["real_agreement"] > final["AE_agreement"]


@pytest.fixture
def committed_figures():
    """README is about the committed metrics, not those of a run of one's own."""
    changed = subprocess.run("git diff --quiet HEAD -- figures", shell=True, cwd=HERE)
    if changed.returncode:
        pytest.skip("figures/ is not as committed, or this is not a git checkout")


@functools.cache
def measured(runs, expression):
    """An expression of a run's metrics. a+b: mean and standard deviation. a~: of seeds 0 and 1"""
    if runs.endswith("~"):
        folder, _, name = runs[:-1].rpartition("/")
        runs = f"{folder}/{name},{folder}1/{name}"
    values = []
    for run in re.split("[+,]", runs):
        metrics = json.loads((HERE / "figures" / f"{run}_metrics.json").read_text())
        values.append(eval(expression, {}, metrics["final"] | metrics))
    return [statistics.mean(values), statistics.stdev(values)] if "+" in runs else values


def format_of(number):
    """A number found in a cell, as a format: 0.12 -> {:,.2f}, 12.3% -> {:,.1%}"""
    digits = len(number[1].partition(".")[2])
    return f"{{:,.{digits}{number[2] or 'f'}}}"


def check_table(match):
    """A table below <!-- rows: runs | columns: names -->. Returns what of it is not measured.

    A row is a run, or NAME@run, where * in NAME stands for the column's. Cells may be words.
    """
    rows, columns, table = match[1].split(), match[2].split(), match[3].splitlines()[2:]
    assert len(table) == len(rows)
    rest = ""
    for row, line in zip(rows, table):
        name, _, runs = row.rpartition("@")
        label, *cells = line.split("|")[1:-1]
        assert len(cells) == len(columns), line
        assert row == "-" or re.search(r"\d", "".join(cells)), line
        rest += label
        for column, cell in zip(columns, cells):
            if "-" not in (row, column) and re.search(r"\d", cell):
                values = measured(runs, (name or "*").replace("*", column))
                template = re.sub(r"([\d,]*\.?\d+)(%?)", format_of, cell, count=len(values))
                assert template.format(*values) == cell, line
                cell = re.sub(r"{.*?}", "", template)
            rest += cell
    return rest


# From the literature, or derived in the text.
PUBLISHED = {"86.76", "2.3", "1.39", "1.44", "0.69", "0.3", "0.8", "0.5", "0.9", "0.1", "0.05"}
PUBLISHED |= {"0.2", "0.7", "0.00", "0.0002", "1.61", "1.10", "5.6", "0.61"}
PUBLISHED |= {"5%", "100%", "40%", "0%"}


def test_every_number_of_readme_is_measured(committed_figures):
    """What no table covers is in figures/claims.tsv: a phrase, its runs, its expressions."""
    tables = r"<!-- rows: (.*?) \| columns: (.*?) -->\n((?:\|.*\n)+)"
    text = re.sub(tables, check_table, README)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    text = re.sub(r"^    .*$|<!--.*?-->|\]\(.*?\)|arXiv\s+[\d.]+", "", text, flags=re.M)
    text = " ".join(text.split())
    for claim in (HERE / "figures" / "claims.tsv").read_text(encoding="utf-8").splitlines():
        phrase, runs, expressions = claim.split("\t")
        values = [v for e in expressions.split(";") for v in measured(runs, e.strip())]
        assert text.count(phrase.format(*values)) == 1, phrase.format(*values)
        text = text.replace(phrase.format(*values), "")
    assert not set(re.findall(r"\d+\.\d+|\d+%", text)) - PUBLISHED
