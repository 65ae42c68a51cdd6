"""The exercises, each script end to end on drawn images, and what is easily got wrong.

    pytest test_smoke.py                      all, in less than two minutes, without a network
    pytest test_smoke.py -k kl_divergence     one exercise: your vae.kl_divergence
    pytest test_smoke.py -k my_runs           are the runs that you trained as ours?
"""

import functools
import inspect
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib import style
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
def small_and_apart(request, monkeypatch, tmp_path):
    """A folder of its own, 1,500 + 250 drawn digits, and no network."""
    if "raise NotImplementedError" in SOURCES and request.node.name not in EXERCISES.values():
        pytest.skip("not all functions of ae.py, vae.py and dcgan.py are written")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 40, seed))
    monkeypatch.setattr(common, "draw_paintings", draw_paintings)
    monkeypatch.setattr(common, "MNIST", None)  # its call fails, as without a network
    monkeypatch.setattr(common, "download_and_extract_archive", None)


@pytest.fixture
def no_figures(monkeypatch):
    """For tests that do not look at figures: they are made, but not rendered."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **kw: path.touch())


def error_of(call, *args):
    """The exit status, or the message of one line, with which a call ends."""
    with pytest.raises(SystemExit) as stop:
        call(*args)
    assert "\n" not in str(stop.value.code)
    return stop.value.code


def check(actual, expected, hint, rtol=1e-3, atol=1e-4):
    """Fail with the hint alone: the lines of a test would tell the solution."""
    if not isinstance(actual, type(expected)):
        pytest.fail(f"Returns {type(actual)}, not {type(expected)}", pytrace=False)
    how = ""
    try:
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        how = f"\n{error}"
    if how:
        pytest.fail(hint + how, pytrace=False)


def check_gradient(result, *inputs):
    assert result.requires_grad, "No gradient can pass: a detach, or no_grad?"
    grads = torch.autograd.grad(result.sum(), inputs, materialize_grads=True, retain_graph=True)
    assert all(grad.any() for grad in grads), "An input gets no gradient: a detach?"


# --------------------------------------------------- exercises
# A test for each function of the exercises. None needs another of them.
def test_squared_error():
    x = torch.rand(5, 784, requires_grad=True)
    error = ae.squared_error(x.detach(), x + 0.5)
    assert error.shape == (5,), "One number per image: a sum over dimension 1?"
    hint = "Of the difference? Squared before the sum? Summed, not averaged? No root? Not halved?"
    check(error, torch.full((5,), 784 / 4), hint)
    check_gradient(error, x)
    assert ae.squared_error(x, x[0])[0] == 0, "x_hat may be a single image, (784,)"


def test_pca():
    x = 3 + torch.randn(100, 8) @ torch.randn(8, 784)
    mean, directions = ae.pca(x, 3)
    check(mean, x.mean(0), "First the mean image: for each pixel, the mean over images?")
    shape = tuple(directions.shape)
    assert shape == (784, 3), f"{shape}: k eigenvectors of 784 pixels, as columns, [:, -k:]?"
    codes = (x - mean) @ directions
    lost = (x - mean - codes @ directions.T).square().sum()
    least = torch.linalg.svdvals(x - x.mean(0))[3:].square().sum()
    hint = "Eigenvectors as they are, of the largest eigenvalues? Of the covariance?"
    check(lost, least, hint)


def test_reparameterize():
    mu = torch.full((100_000, 2), 3.0, requires_grad=True)
    logvar = torch.full((100_000, 2), math.log(4), requires_grad=True)
    z = vae.reparameterize(mu, logvar)
    hint = "Their mean is not mu: mu + ...? randn? One draw for each number?"
    check(z.mean(0), mu[0], hint, atol=0.2)
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
    mu, logvar = torch.randn(2, 50, 4, requires_grad=True)
    kl = vae.kl_divergence(mu, logvar)
    assert kl.shape == (50, 4), "One number per image and dimension?"
    assert kl.isfinite().all(), "nan: a log of logvar? It is the log of sigma^2 already"
    for m, v, nats, hint in [  # the three clouds of README, part 2: mu, log sigma^2
        (0.0, 0.0, 0.0, "N(0, 1) costs 0: the 1? exp(logvar)? Its sign, and logvar's?"),
        (2.0, 0.0, 2.0, "mu = 2 costs 2 nats: mu squared? The 1/2? The sign of each?"),
        (0.0, -4.6, 1.805, "sigma = 0.1 costs 1.8: logvar = log sigma^2? KL(q || N(0, I))?"),
    ]:
        cost = vae.kl_divergence(torch.tensor([[m]]), torch.tensor([[v]]))
        check(cost, torch.tensor([[nats]]), hint)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    check(kl, expected, "Is logvar log sigma^2, not sigma? 1/2? mu squared?")
    check_gradient(kl, mu, logvar)


def test_reconstruction_loss():
    x = torch.rand(6, 784)
    model = vae.VAE(x.mean(0), [16], 4)
    for shape in (6, 4), (5, 6, 4):  # one code per image, or five
        z = torch.randn(shape, requires_grad=True)
        model.likelihood = "bernoulli"
        loss = model.reconstruction_loss(x, z)
        assert loss.shape == z.shape[:-1], "coins: a number per image, summed over pixels, (-1)?"
        assert loss.min() > 0, "coins: -log of a probability is never negative: the sign?"
        expected = -Bernoulli(model.decode(z), validate_args=False).log_prob(x).sum(-1)
        hint = "coins: of logits, without sigmoid? Logits first? x and 1 - x? Summed, no mean?"
        check(loss, expected, hint)
        check_gradient(loss, z)

        model.likelihood = "gaussian"
        loss = model.reconstruction_loss(x, z) + 392 * math.log(2 * math.pi / 8)
        assert loss.shape == z.shape[:-1], "gaussian: a number per image, summed over pixels?"
        expected = -Normal(model.decode(z), 8**-0.5).log_prob(x).sum(-1)
        hint = "likelihood gaussian: 4 (x - sigmoid(logits))^2? Summed, not averaged?"
        check(loss, expected, hint)
        check_gradient(loss, z)

    model.likelihood = "bernoulli"
    model.decoder[-1].bias.data += 200
    hint = "coins: sigmoid rounds to 0 or 1, and log 0 is infinite: ..._with_logits?"
    expected = 200 * (1 - x).sum(1)
    check(model.reconstruction_loss(x, z[0]), expected, hint, rtol=0.01)


def stub_model(mu, logvar):
    """A model that encodes all images so, and a list of the z that its loss is asked about."""
    draws = []

    def reconstruction_loss(x, z):
        assert x.shape[1:] == (7,), "reconstruction_loss(x, z): first the images, then z?"
        draws.append(z)
        return z.abs().sum(-1)

    return SimpleNamespace(
        encode=lambda x: (mu.clone(), logvar.clone()), decode=lambda z: F.pad(z, (0, 5)),
        reconstruction_loss=reconstruction_loss), draws


def check_draws(draws, mu, logvar, *shape):
    assert draws, "Where is model.reconstruction_loss(x, z)?"
    hint = "and reconstruction_loss(x, z) decodes it"
    assert draws[0].shape == shape, f"z is {tuple(draws[0].shape)}, not {shape}, {hint}"
    check(draws[0].mean(0), mu, "z is not from q(z|x): not around mu; one for each?", atol=0.1)
    hint = "z is not a draw from q(z|x): is its spread sigma = exp(logvar / 2)?"
    check(draws[0].std(0), (logvar / 2).exp(), hint, atol=0.1)


def test_elbo_terms(monkeypatch):
    monkeypatch.setattr(vae, "reparameterize", lambda mu, v: Normal(mu, (v / 2).exp()).rsample())
    monkeypatch.setattr(vae, "kl_divergence",
                        lambda mu, v: kl_divergence(Normal(mu, (v / 2).exp()), Normal(0.0, 1.0)))
    mu, logvar = torch.tensor([[[-2.0, 1.0]], [[0.5, -1.0]]], requires_grad=True)
    model, draws = stub_model(mu.expand(10_000, 2), logvar.expand(10_000, 2))
    terms = vae.elbo_terms(model, torch.rand(10_000, 7))
    check_draws(draws, mu[0], logvar[0], 10_000, 2)
    assert isinstance(terms, tuple) and len(terms) == 2, "Returns two terms, not their sum?"
    hint = "First the reconstruction, per image, as the model gives it: no minus, no mean?"
    check(terms[0], draws[0].abs().sum(1), hint)
    hint = "Then the KL of mu and logvar, per image, summed over dimensions, no mean? No minus?"
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)
    check(terms[1], expected.expand(10_000), hint)
    for term in terms:
        check_gradient(term, mu, logvar)


def test_log_weights():
    mu, logvar = torch.tensor([[[-2.0, 1.0]], [[0.5, -1.0]]], requires_grad=True)
    mu, logvar = mu.expand(2, 2), logvar.expand(2, 2)
    model, draws = stub_model(mu, logvar)
    log_w = vae.log_weights(model, torch.rand(2, 7), 10_000)
    check_draws(draws, mu, logvar, 10_000, 2, 2)
    assert log_w.shape == (10_000, 2), "(samples, B): a log weight for each draw, summed over k?"
    z, q, prior = draws[0], Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)
    expected = (prior.log_prob(z) - q.log_prob(z)).sum(-1) - z.abs().sum(-1)
    hint = "-reconstruction_loss + log p(z) - log q(z|x), summed over k? The log, no exp?"
    check(log_w, expected, hint)
    assert z.requires_grad, "No gradient passes through z: rsample, not sample?"
    check_gradient(log_w, mu, logvar)


def test_coverage():
    # Row n has n white pixels, so rows a and b differ in |a - b| pixels.
    bars = (torch.arange(784) < torch.arange(400)[:, None]).float()
    real, fake = bars[0:70:10], bars[[58] + 6 * [300]]
    # The fifth neighbour is 50, 40, 30, 30, 30, 40, 50 pixels away, the nearest fake
    # 58, 48, 38, 28, 18, 8, 2. Other balls, or other questions, give other shares.
    share = vae.coverage(fake, real)
    hints = {
        7: "Balls too large: to the fifth other real one, not to the sixth, nor to a fake?",
        5: "Has each real one a ball of its own?",
        3: "The nearest real one is the image itself: is it counted? Or > in place of <=?",
        2: "Balls too small: to the fifth, not the first? The nearest: largest=False?",
        0: "Is the nearest fake inside, not all? A ball to the fifth other, not to itself?",
    }
    otherwise = "A share? Of real ones? Balls to real ones?"
    check(share, 4 / 7, hints.get(round(float(7 * share), 3), otherwise))
    check(vae.coverage(bars[[60] + 6 * [300]], real), 4 / 7, "A ball's edge is inside: <=?")
    for grey in 0.6 * fake, 0.4 * fake + 0.2:
        check(vae.coverage(grey, 0.9 * real), 4 / 7, "Pixels above 0.5 are white, in both?")


def test_copies_of_coverage():
    real, fake = torch.rand(40, 784), 0.6 * torch.rand(40, 784)
    share, hint = dcgan.coverage(fake, real), "dcgan.coverage makes nothing black or white"
    assert ae.coverage(fake, real) == vae.coverage(fake, real), "ae.coverage is that of vae"
    assert vae.coverage(fake, real) != share == dcgan.coverage(fake / 2, real / 2), hint


def check_layers(net, expected, parameters):
    """Convolutions, BatchNorms and activations in this order, and initialised."""
    assert isinstance(net, dcgan.Network), f"A Network(...), not a {type(net).__name__}?"
    kinds = [type(layer).__name__ for layer in net.modules()]
    kinds = [kind for kind in kinds if re.match("Conv|Batch|.*ReLU$|Tanh|Sigmoid", kind)]
    assert sum("Conv" in kind for kind in kinds) == 5, "Five convolutions?"
    for i, pair in enumerate(zip_longest(kinds, expected.split(), fillvalue="the end"), 1):
        assert pair[0] == pair[1], f"Layer {i}, not counting paddings, is {pair[0]}, not {pair[1]}"
    n = sum(p.numel() for p in net.parameters())
    hint = "bias=False? Channels? Kernels of 4?"
    assert n == parameters, f"{n:,} parameters, not {parameters:,}: {hint}"
    check(next(net.parameters()).std().item(), 0.02, "Ends in .apply(initialise)?", rtol=0.05)


def test_make_generator():
    G = dcgan.make_generator()
    check_layers(G, 4 * "ConvTranspose2d BatchNorm2d ReLU " + "ConvTranspose2d Tanh", 3_576_704)
    tracked = [getattr(layer, "track_running_stats", True) for layer in G.modules()]
    assert all(tracked), "G keeps BatchNorm's statistics: no track_running_stats=False?"
    G = dcgan.make_generator(width=4, latent_dim=5)
    assert next(G.parameters()).shape == (5, 32, 4, 4), "Are width and latent_dim used?"
    shape = tuple(G(torch.randn(7, 5, 1, 1)).shape)
    assert shape == (7, 3, 64, 64), f"{shape}: stride and padding 1, 0 at first, then 2, 1?"


def test_make_discriminator():
    D, seen = dcgan.make_discriminator(), []
    check_layers(D, f"Conv2d LeakyReLU {3 * 'Conv2d BatchNorm2d LeakyReLU '} Conv2d", 2_765_568)
    for layer in D.modules():
        assert getattr(layer, "negative_slope", 0.2) == 0.2, "LeakyReLU(0.2)?"
        assert not getattr(layer, "track_running_stats", False), "track_running_stats=False?"

    D = dcgan.make_discriminator(width=4)
    assert next(D.parameters()).shape == (4, 3, 4, 4), "Is width used?"
    first = [layer for layer in D.modules() if isinstance(layer, nn.Conv2d)][0]
    first.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach().clone()))
    shape = tuple(D(-torch.ones(16, 3, 64, 64)).shape)  # of black images
    assert shape == (16,), f"{shape}: Flatten(0)? Stride 2 and padding 1, at the end 1 and 0?"
    hint = "Padded with black, -1, and only once, as the convolution's own padding is 0?"
    assert seen[0].std((2, 3)).max() < 1e-4 and seen[0].shape[2:] == (32, 32), hint


def test_discriminator_loss():
    real, fake = 2 * torch.randn(2, 50, requires_grad=True)
    loss = dcgan.discriminator_loss(real, fake)
    assert loss.shape == (), "One number: the mean over the batch?"
    assert not loss.isnan(), "nan, the log of a negative logit: D = sigmoid(logit)?"
    better = dcgan.discriminator_loss(real + 1, fake), dcgan.discriminator_loss(real, fake - 1)
    assert max(better) < loss, "More for real, or less for fake, is better: both terms? The signs?"
    expected = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    hint = "-log D(x) - log(1 - D(G(z))), D = sigmoid(logit): means, not sums? Not halved?"
    check(loss, expected, hint)
    check_gradient(loss, real, fake)
    sure = torch.tensor([200.0, -200.0])  # and wrong in one of two cases
    hint = "sigmoid rounds to 0 or 1, and log 0 is infinite: F.logsigmoid?"
    check(dcgan.discriminator_loss(sure, sure), torch.tensor(200.0), hint)


def test_generator_loss():
    fake = 2 * torch.randn(50, requires_grad=True)
    loss = dcgan.generator_loss(fake)
    assert loss.shape == (), "One number: the mean over the batch?"
    assert not loss.isnan(), "nan, the log of a negative logit: D = sigmoid(logit)?"
    assert dcgan.generator_loss(fake + 1) < loss, "G wants D to say more: the sign?"
    expected = -fake.sigmoid().log().mean()
    hint = "-log D(G(z)), not log(1 - D(G(z)))? The mean of the logs, not a sum? Not halved?"
    check(loss, expected, hint)
    check_gradient(loss, fake)
    hint = "sigmoid rounds to 0, and log 0 is infinite: F.logsigmoid?"
    check(dcgan.generator_loss(torch.tensor([-200.0])), torch.tensor(200.0), hint)


def play(G, D, real, noise, bug):
    """G's and D's weights after a step for each z, at a rate of 1: G(z) = z G, D(x) = x D."""
    old_grad_G = old_grad_D = 0
    for z in noise:
        G, D = G.detach().requires_grad_(), D.detach().requires_grad_()
        fake, sign = z @ G, -1 if bug == "swapped" else 1
        loss_D = F.softplus(-sign * real @ D).mean() + F.softplus(sign * fake.detach() @ D).mean()
        grad_D = torch.autograd.grad(loss_D, D)[0] + old_grad_D
        new_D = (D - grad_D).detach().requires_grad_()

        loss_G = F.softplus(-fake @ (D if bug == "old D" else new_D)).mean()
        grad_G, through_D = torch.autograd.grad(loss_G, [G, D if bug == "old D" else new_D])
        grad_G = grad_G + ("opt_G.zero" in bug) * old_grad_G
        old_grad_G = grad_G
        old_grad_D = ("opt_D.zero" in bug) * grad_D + ("through" in bug) * through_D
        G, D = G - grad_G, new_D
    return torch.cat([G.detach(), D.detach()], 1)


def test_train_step(monkeypatch):
    """Two steps of networks without layers, compared with what each mistake would give."""
    monkeypatch.setattr(dcgan, "discriminator_loss",
                        lambda a, b: F.softplus(-a).mean() + F.softplus(b).mean())
    monkeypatch.setattr(dcgan, "generator_loss", lambda a: F.softplus(-a).mean())
    real, noise = torch.randn(8, 2) + 1, torch.randn(2, 8, 2)
    G, D = nn.Linear(2, 2, bias=False), nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
    start = G.weight.detach().T.clone(), D[0].weight.detach().T.clone()
    opts = [torch.optim.SGD(net.parameters(), lr=1.0) for net in (G, D)]
    moves, leaks, seen, training = [], [], [], []
    opts[1].register_step_pre_hook(lambda *_: leaks.append(G.weight.grad is not None))
    for opt, name in zip(opts, "GD"):
        opt.register_step_post_hook(lambda *_, name=name: moves.append(name))
    for net in G, D:
        net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach()))
        net.register_forward_hook(lambda net, *_: training.append(net.training))
    try:
        returned = [dcgan.train_step(G, D, *opts, real, z) for z in noise]
    except NotImplementedError:
        raise
    except RuntimeError as error:
        if "inplace" in str(error):
            pytest.fail("G learned from D before its step: D(fake) once more, after opt_D.step()?")
        if "second time" in str(error):
            pytest.fail("A graph is used twice: D's step asks D(fake.detach()), G's asks D(fake)?")
        pytest.fail(f"No gradient reaches G or D: a detach or no_grad, or not D(fake)? {error}")
    assert moves == list("DGDG"), f"opt_D.step(), then opt_G.step(), once each? {moves}"
    assert all(training), "G and D train in both steps, also in their mode: no eval()?"
    assert not leaks[0], "D's step computes G's gradient, too: D(fake.detach()) there?"
    fakes = [x for x in seen if not any(torch.equal(x, y) for y in (real, *noise))]
    hint = "Do all passes of D see the same fakes, G(z), in a batch of their own?"
    assert len({str(x) for x in fakes}) == 2, hint
    moved = torch.cat([G.weight.detach().T, D[0].weight.detach().T], 1)
    hint = "did not move: no backward? A detach in its step? zero_grad after backward?"
    assert not torch.equal(moved[:, :2], start[0]), f"G {hint}"
    assert not torch.equal(moved[:, 2:], start[1]), f"D {hint}"
    again = "step's gradient once more: where is"
    for bug, hint in {
        "swapped": "D is asked to take fakes for real: discriminator_loss(real, fake)?",
        "old D": "G learned from D before its step: D(fake) once more, after opt_D.step()?",
        "opt_G.zero": f"G's second step has the first {again} opt_G.zero_grad()?",
        "opt_D.zero": f"D's second step has the first {again} opt_D.zero_grad()?",
        "through": f"D's second step has G's {again} opt_D.zero_grad(), before its backward?",
        "opt_D.zero through": f"D's second step has G's {again} opt_D.zero_grad()?",
        "opt_D.zero opt_G.zero": f"Both second steps have the first {again} zero_grad()?",
        "opt_D.zero opt_G.zero through": f"Both second steps have the first {again} zero_grad()?",
    }.items():
        assert not torch.allclose(moved, play(*start, real, noise, bug)), hint
    hint = "Wrong weights. D: discriminator_loss(real, fake)? G: generator_loss(fake)? No minus?"
    check(moved, play(*start, real, noise, ""), hint)

    shapes = [getattr(five, "shape", type(five).__name__) for five in returned]
    assert shapes == 2 * [(5,)], f"Two losses and three means, a tensor (5,), not {shapes[0]}"
    assert not returned[0].requires_grad, "They need no gradient: detach?"
    fake, new_D = noise[0] @ start[0], play(*start, real, noise[:1], "")[:, 2:]
    logits = real @ start[1], fake @ start[1], fake @ new_D
    losses = F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean(), F.softplus(-logits[2])
    check(returned[0][:2], torch.stack([loss.mean() for loss in losses]), "First Loss_D, Loss_G?")
    opinions = torch.stack([logit.sigmoid().mean() for logit in logits])
    hint = "Then D(x) and D(G(z)) before D's step: means of sigmoids?"
    check(returned[0][2:4], opinions[:2], hint)
    check(returned[0][4], opinions[2], "The last is D(G(z)) after D's step")


def test_repetition():
    x, mark = torch.rand(10, 3, 64, 64), torch.rand(1, 3, 64, 64)
    hint = "mean(0), no variance? Both of detail(x)? Mean squares, no sums? Divided? No percent?"
    check(dcgan.repetition(mark.expand_as(x)), 1.0, f"1 if all are the same: {hint}")
    hint = "the square of the mean, above? No root or std? No absolute values? Of detail(x)?"
    check(dcgan.repetition(x), 0.1, f"1 / N with nothing in common: {hint}", rtol=0.05)
    check(dcgan.repetition(x + mark), 0.55, "A mark that all share: of detail(x)?", rtol=0.05)


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


FLAGS_TO_TRY = "--limit 99|--seed 1|--lr 1e-4|--batch-size 30|--latent-dim 4|--epochs 3"
DIGITS_TO_TRY = "|--hidden 32 32|--validate"


@pytest.mark.parametrize("script, more", [
    (ae, DIGITS_TO_TRY),
    (vae, DIGITS_TO_TRY + "|--beta 2|--binarize|--likelihood gaussian"),
    (dcgan, "|--width 5|--digits|--bf16"),
])
def test_each_flag_changes_the_run(script, more, no_figures, monkeypatch):
    for drawing in [name for name in vars(script) if re.match("draw_|plot_|scatter_", name)]:
        monkeypatch.setattr(script, drawing, lambda *args, **kwargs: None)
    measures = dict.fromkeys(["swd", "repetition", "coverage"], 0.0)
    monkeypatch.setattr(dcgan, "generate", lambda G, z: torch.zeros(len(z), 3, 8, 8))
    monkeypatch.setattr(dcgan, "describe", lambda x: {"features": x})
    monkeypatch.setattr(dcgan, "score", lambda fake, reference: measures)
    monkeypatch.setattr(dcgan, "nearest", lambda fake, x: (torch.ones(len(fake)), [0] * len(fake)))
    runs = {}
    for flags in ["", *(FLAGS_TO_TRY + more).split("|")]:
        out = ["--limit", "130", "--out", f"run{len(runs)}"]
        runs[flags] = script.main([*FLAGS[script], *out, *flags.split()])
    histories = {json.dumps(run["history"]) for run in runs.values()}
    assert len(histories) == len(runs), "Two of the runs are the same"


@pytest.mark.parametrize("script", [ae, vae])
def test_training_beats_the_mean_image(script, no_figures):
    final = script.main([*FLAGS[script], "--epochs", "6"])["final"]
    x, _, test_x, _ = common.load_digits("data", synthetic=True)[1:]
    assert final["test_mse"] < 0.75 * (test_x - x.mean(0)).square().mean()
    assert final["agreement"] < final["agreement_real"]


def test_binarized_digits_are_trained_on(monkeypatch):
    seen, terms = [], vae.elbo_terms
    monkeypatch.setattr(vae, "elbo_terms", lambda net, x: seen.append(x) or terms(net, x))
    x, args = torch.rand(20, 784), vae.parse_args("--binarize --epochs 2".split())
    history, _ = vae.train(vae.VAE(x[0], [16], 4), x, torch.ones(9, 784), args)
    batches = seen[::2]  # between them the test images
    assert all(set(batch.unique().tolist()) == {0, 1} for batch in batches)
    assert not torch.equal(batches[0].sum(0), batches[1].sum(0))  # redrawn
    assert torch.equal(seen[1], torch.ones(9, 784)) and len(history["test_loss"]) == 2


def test_fitted_codes():
    z = 5 + torch.randn(5000, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.5]])
    draws = ae.fitted_codes(z, 20_000)
    check(draws.mean(0), z.mean(0), "The mean of the codes", atol=0.1)
    check(draws.T.cov(), z.T.cov(), "Their covariance", atol=0.2)


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
    assert "is of 2 epochs of 2" in error_of(dcgan.main, TINY_GAN + ["--epochs", "1"])
    state = torch.load(path)
    state["args"]["epochs"] = 9  # as if it had been interrupted
    torch.save(state, path)
    assert "is of 2 epochs of 9" in error_of(dcgan.main, TINY_GAN)
    torch.save(state | {"G": {}}, path)
    assert "of other networks" in error_of(resume)
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(100, seed))
    assert "is of other images" in error_of(resume)
    for damaged in path.read_bytes()[:1000], b"":
        path.write_bytes(damaged)
        assert "cannot be read: " in error_of(resume)


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_as_notebook_cell(script, no_figures, monkeypatch):
    shown = []

    def display(image, display_id=None, update=None):
        shown.append((display_id, update))

    ipython = SimpleNamespace(get_ipython=lambda: None, version_info=(9, 0))
    ipython.display = SimpleNamespace(display=display, Image=lambda filename: filename)
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
        ("taken", "is a file, not a folder"),
        ("empty", "Found: no files."),
        ("other", "Found: 1 .gif."),
        ("damaged", "Found: 1 unreadable"),
    ]:
        assert error in error_of(dcgan.main, ["--data", folder])


# -------------------------------------------------------- data
def test_mnist(monkeypatch):
    def mnist(folder, train, download):
        """The first half is black with the label 0, the second white with the label 1."""
        labels = torch.arange(2).repeat_interleave(300 if train else 50)
        return SimpleNamespace(data=255 * labels.view(-1, 1, 1).expand(-1, 28, 28), targets=labels)

    assert common.load_digits("data")[0] == "drawn digits"
    assert not Path("data").exists()  # nothing is left of a download that failed
    Path("mine").mkdir()
    assert common.load_digits("mine")[0] == "drawn digits"
    assert list(Path.cwd().glob("mine/**")) == [Path.cwd() / "mine"]  # the user's folder stays
    Path("data/abstract_art").mkdir(parents=True)
    Path("data/abstract_art/0.png").touch()
    monkeypatch.setattr(common, "MNIST", mnist)
    name, x, y, test_x, test_y = common.load_digits("data")
    assert name == "MNIST" and x.shape == (600, 784) and test_x.shape == (100, 784)
    for images, labels in (x, y), (test_x, test_y):
        assert torch.equal(images, labels[:, None].expand(-1, 784))  # 255 is 1
        assert 0.35 < labels[:40].float().mean() < 0.65  # any part is a sample
    assert torch.equal(y, common.load_digits("data")[2])
    _, _, y_5, _, y_6 = common.load_digits("data", validate=True)
    assert torch.equal(y, torch.cat((y_5, y_6))) and len(y_6) == 100

    Path("photos/cats").mkdir(parents=True)
    Path("photos/cats/0.png").touch()
    for folder in "photos", __file__:
        assert "reads folders of images" in error_of(common.load_digits, folder)
    assert list(Path("photos").iterdir()) == [Path("photos/cats")]


def test_odd_images(capsys):
    folder = Path("絵画/deep er")
    for name in (".hidden", "b"):
        (folder / name).mkdir(parents=True)
    image = Image.fromarray(draw_paintings(100, 1)[0].movedim(0, 2).numpy())
    for name in ("a.png", "._a.png", ".hidden/a.png", "vae_data.png", "a.gif"):
        image.save(folder / name)
    image.resize((200, 90)).convert("CMYK").save(folder / "b/b.jpg")
    image.resize((640, 640)).convert("LA").save(folder / "c.PNG")
    Image.new("RGBA", (70, 70)).save(folder / "e.png")
    Image.new("P", (70, 70)).save(folder / "f.png", transparency=0)
    Image.new("I;16", (70, 70), 30_000).save(folder / "d.png")
    Image.new("F", (70, 70), 0.5).save(folder / "g.tiff")
    (folder / "i.jpg").write_bytes((folder / "b/b.jpg").read_bytes()[:400])
    (folder / "notes").write_text("not an image")
    (folder / "loop").symlink_to(folder.absolute())

    name, x, files = common.load_paintings("絵画")
    assert name == "??" and x.shape == (5, 3, 64, 64) and x.dtype == torch.uint8
    x = {Path(file).name: image for file, image in zip(files, x)}
    assert sorted(x) == ["a.png", "b.jpg", "c.PNG", "e.png", "f.png"] and "deep er/b/b.jpg" in files
    assert torch.equal(x["a.png"], draw_paintings(100, 1)[0])
    assert x["e.png"].min() == x["f.png"].min() == 255  # what is transparent lies on white
    log = capsys.readouterr().out
    for kind in "1 .gif", "1 without suffix", "1 linked", "1 figures of this lab", "3 unreadable":
        assert kind in log
    assert "2 of the first 5 images have a copy" in log  # e.png and f.png


def test_order_of_images(monkeypatch):
    for i, image in enumerate(draw_paintings(100, 1)):
        Path("a", str(i % 7)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.movedim(0, 2).numpy()).save(f"a/{i % 7}/{i}.png")
    _, x, files = common.load_paintings("a")
    assert torch.equal(x, draw_paintings(100, 1)[[int(Path(file).stem) for file in files]])
    assert files != sorted(files)

    walk, read, decoded = common.os.walk, common.read_image, []
    monkeypatch.setattr(common.os, "walk", lambda *a, **b: reversed(list(walk(*a, **b))))
    monkeypatch.setattr(common, "read_image", lambda path: decoded.append(path) or read(path))
    _, first_x, first_files = common.load_paintings("a", limit=10)
    assert first_files == files[:10] and torch.equal(first_x, x[:10]) and len(decoded) == 10


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
        assert list(Path("data").glob("*")) == list(Path("data").glob("abstract_art"))
        assert Path("data").exists() == (download is succeed)
    assert "connection lost" in capsys.readouterr().out


def test_figures_depend_on_no_settings_and_names_are_text():
    rows, pictures = torch.rand(2, 5, 784), []
    settings = {"text.usetex": True, "savefig.transparent": True}
    for there in "default", ["dark_background", settings]:
        with style.context(there):
            common.plot_images(Path("a.png"), rows, "a$$b, art_$5_to_$9", ["$_a$", "b"])
        pictures.append(Path("a.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_what_cannot_be_written(capsys, monkeypatch):
    path = Path("weights.pt")
    common.save_weights({"epoch": 1}, path)
    monkeypatch.setattr(Path, "replace", lambda self, path: open("nowhere/x", "w"))
    common.save_weights({"epoch": 2}, path)  # as if another program held the file open
    assert "Not written: 'weights.pt'" in capsys.readouterr().out
    assert torch.load(path) == {"epoch": 1}
    Path("loss.png").mkdir()
    common.plot_curves(Path("loss.png"), {"loss": {"training": [2.0, 1.0]}}, "title")
    assert error_of(common.report_unwritten) == "error: cannot write loss.png, weights.pt"
    monkeypatch.undo()
    common.save_weights({"epoch": 3}, path)
    assert error_of(common.report_unwritten) == "error: cannot write loss.png"
    common.output_folder("out", "MNIST")
    common.report_unwritten()  # a new run


def test_device(monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for name, problem in ("meta", "meta: "), ("cpu", ""):  # meta has no kernels
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(name))
        assert common.device("auto") == "cpu"
        assert problem in capsys.readouterr().out.partition("work. ")[2] or not problem


# ---------------------------------------- autoencoder and VAE
@pytest.mark.parametrize("script", [ae, vae])
def test_optimisation(script, monkeypatch):
    seen, orders = [], []

    class Watched(torch.optim.Adam):
        def step(self):
            group = self.param_groups[0]
            gradient = torch.cat([p.grad.flatten() for p in group["params"]])
            seen.append((group["lr"], gradient.norm().item()))
            super().step()

    def progress(batches, *epochs):
        orders.append(torch.cat(batches).tolist())
        return batches

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    monkeypatch.setattr(script, "progress", progress)
    x = torch.rand(40, 784)
    kind = ae.Autoencoder if script is ae else vae.VAE
    args = script.parse_args("--epochs 5 --batch-size 20 --lr 1e-9".split())
    history, _ = script.train(kind(x[0], [16], 4), x, 1 - x, args)
    rates, norms = zip(*seen)
    assert rates[0] < max(rates) == pytest.approx(1e-9, rel=0.1) and rates[-1] < rates[0]
    assert max(norms) < 1.5 * min(norms)  # gradients do not pile up
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5  # another order in each epoch


def test_one_wild_image_has_no_huge_loss():
    model, x = vae.VAE(torch.zeros(784), [16], 4), torch.rand(8, 784)
    model.encoder[-1].bias.data[4:] = 80
    _, kl = vae.elbo_terms(model, x)
    assert kl.max() < 400  # not exp(80)


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
    x, z = draw_paintings(100, 1), torch.randn(64, 100, 1, 1)
    reference = dcgan.describe(x[:8] / 255)
    return dcgan.train(G, D, x[:64], x[64:], reference, [], z, args, "", Path())[:2]


def test_average_of_generators(monkeypatch, no_figures):
    weights, seen, step = [], [], dcgan.train_step

    def watched(G, D, opt_G, opt_D, real, z):
        losses = step(G, D, opt_G, opt_D, real, z)
        weights.append(G[0].weight.detach().clone())
        seen.extend(real)
        return losses

    monkeypatch.setattr(dcgan, "train_step", watched)
    G, D = small_gan()
    G_ema, history = train_gan(G, D)
    check(G_ema[0].weight, (weights[0] + weights[1]) / 2, "It begins as a plain mean", 0, 1e-6)
    assert history["swd"][0] > 10 and history["coverage"][0] < 1  # not of real images
    given = dcgan.to_model(draw_paintings(100, 1)[:64])
    mirrored = [not any(torch.equal(image, other) for other in given) for image in seen]
    assert 16 < sum(mirrored) < 48  # about half of 64

    z = torch.randn(64, 100, 1, 1)
    of_batch = G_ema.train()(z) / 2 + 0.5  # its BatchNorm's averages fit the batch
    check(dcgan.generate(G_ema, z), of_batch.detach(), "Averages of BatchNorm", 0, 0.05)
    check(dcgan.generate(G_ema, z[:1]), dcgan.generate(G_ema, z)[:1], "In eval mode", 0, 1e-4)
    assert dcgan.epoch_size(64, 64) == 64  # as asked for with --limit, but otherwise
    assert dcgan.epoch_size(400, 60_000) == 2000 and dcgan.epoch_size(2498, 60_000) == 2498


def test_bfloat16(no_figures):
    changes = []
    for flags in [], ["--bf16"]:
        G, D = small_gan()
        G_ema, history = train_gan(G, D, *"--lr 1e-2 --average 0".split(), *flags)
        assert torch.equal(G_ema[0].weight, G[0].weight)  # an average with decay 0
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
    patches = [dcgan.sorted_patches(fake) for fake in (real, x, blurred, fog, tiles, grain)]
    swd = [dcgan.sliced_wasserstein(fake, patches[0]) for fake in patches[1:]]
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
PAGES = {folder: (folder / "README.md").read_text(encoding="utf-8")
         for folder in (HERE, HERE / "figures")}
README = "\n".join(PAGES.values())
README_CELLS = re.findall(r"```py\n(.*?)```", README, re.S)
EXERCISES = dict(re.findall(r"^\| `([\w.]+)` .* -k (test_\w+)` \|$", README, re.M))
SOURCES = "".join(Path(script.__file__).read_text() for script in (ae, vae, dcgan))


@pytest.fixture
def as_committed():
    """The page is about the committed scripts and runs, not those that a student has changed."""
    if README[0] != "#":
        pytest.skip("the page of a hand-out, which lacks solutions")
    for files in "figures", "*.py README.md":
        if subprocess.run(f"git diff --quiet HEAD -- {files}", shell=True, cwd=HERE).returncode:
            pytest.skip(f"{files}: not as committed, or this is not a git checkout")


def cell_with(text):
    [cell] = [cell for cell in README_CELLS if text in cell]
    return cell


def test_readme_images_and_links():
    anchors = {}
    for folder, page in PAGES.items():
        titles = re.findall(r"^#+ (.+)$", page, re.M)
        anchors[folder / "README.md"] = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for folder, page in PAGES.items():
        for link in re.findall(r"\]\((?!http)([^)]+)\)", page):
            path, _, anchor = link.partition("#")
            target = (folder / (path or "README.md")).resolve()
            assert target.exists() and (not anchor or anchor in anchors[target]), link


def test_readme_commands_and_edits(as_committed):
    scripts = {"ae": ae, "vae": vae, "dcgan": dcgan}
    commands = re.findall(r"python (ae|vae|dcgan)\.py([^`|&#>\n]*)", README)
    assert len(commands) > 20
    for script, flags in commands:
        scripts[script].parse_args(flags.replace("PATH", "folder").split())
    edits = re.findall(r"`([^`]+)`\s+->\s+`", README)
    assert len(edits) > 15
    for line in edits:
        assert line in SOURCES, line


def test_readme_quotes_code(as_committed):
    quotes = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(quotes) >= 8
    for quote in quotes:  # which stand there without their indentation
        indented = [textwrap.indent(quote, " " * n) for n in (0, 4, 8, 12)]
        assert any(text in SOURCES for text in indented), quote


def test_readme_exercises_have_tests_and_hints():
    assert len(EXERCISES) == 14
    for name, test in EXERCISES.items():
        assert callable(eval(name)) and [t for t in globals() if test in t] == [test]
        assert README.count(f"<details><summary><code>{name}</code></summary>") == 1


def test_readme_handout(as_committed, capsys):
    for path in [*HERE.glob("*.*"), HERE / "LICENSE"]:
        if path.is_file():
            Path(path.name).write_bytes(path.read_bytes())
    Path("figures").mkdir()
    Path("figures/README.md").write_text(PAGES[HERE / "figures"], encoding="utf-8")
    exec(cell_with("handout"), {})
    with pytest.raises(FileExistsError):
        exec(cell_with("handout"), {})
    paths = [*Path("handout").glob("*.??*"), Path("handout/figures/README.md")]
    files = {path.as_posix()[8:]: path.read_text(encoding="utf-8") for path in paths}
    assert len(files) == 8

    modules = {}
    for script in ae, vae, dcgan:
        modules[script.__name__] = module = ModuleType(script.__name__)
        exec(files[f"{script.__name__}.py"], vars(module))
        assert error_of(module.parse_args, ["--help"]) == 0
    for name in EXERCISES:
        for line in re.findall(r"^ +(return .*)", inspect.getsource(eval(name)), re.M):
            assert line not in "".join(files.values())
        function = eval(name, modules)
        with pytest.raises(NotImplementedError):
            function(*[None for _ in inspect.signature(function).parameters])
    scripts = "".join(files[f"{script.__name__}.py"] for script in FLAGS)
    for quote in re.findall(r"```python\n(.*?)```", files["README.md"], re.S):
        assert all(line in scripts for line in quote.split("\n"))


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_readme_and_docstring_show_the_committed_run(script, as_committed, capsys):
    metrics = json.loads((HERE / f"figures/{script.__name__}_metrics.json").read_text())
    script.report(metrics["final"], 0, SimpleNamespace(**metrics["args"]), Path())
    # The line of samples is explained only in part 3.
    assert re.split("^Samples|^torch", capsys.readouterr().out, flags=re.M)[0] in README
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


def test_readme_transposed_convolution():
    variables = {}
    exec(cell_with("transposed_convolution.png"), variables)
    # By hand: the kernel's columns 1, 2, 3, 4 at 0, ten times the same at 2, without the border.
    assert variables["values"].tolist() == [[3, 24, 35, 40], [4, 35, 46, 50]]
    assert variables["sources"].tolist() == 2 * [[1, 3, 3, 2]]
    shown = [text.get_text() for text in variables["ax"].texts]
    assert sum(text.isdigit() for text in shown) == 1 + 16 + 4 + 2 + 24 + 8
    assert Path("figures/cells/transposed_convolution.png").exists()


def test_readme_balls_of_coverage(as_committed):
    cell, variables = cell_with("cells/coverage.png"), {}
    exec(cell, variables)
    lines = Path(vae.__file__).read_text().replace("topk(6", "topk(3")  # the second, not the fifth
    assert re.search(r"\n    (radius = .*?)  #", lines)[1] in cell
    assert re.search(r"return \((.*) <= radius\)", lines)[1] in cell
    inside = 0
    for i, centre in enumerate(variables["real"]):
        others = torch.cat((variables["real"][:i], variables["real"][i + 1 :]))
        radius = (others - centre).norm(dim=1).sort().values[1]
        assert radius == pytest.approx(variables["radius"][i].item(), rel=1e-4)
        inside += ((variables["fake"] - centre).norm(dim=1) < radius).any().item()
    title = variables["ax"].get_title()
    assert title == f"{inside} of 10 balls hold a sample: coverage {inside}0%"
    assert 0 < inside < 10 and Path("figures/cells/coverage.png").exists()


def test_readme_measures_one_can_believe():
    variables = {}
    exec(cell_with("measures_metrics.json"), variables)
    final = json.loads(Path("figures/cells/measures_metrics.json").read_text())["final"]
    assert len(final) == 2 * len(variables["kinds"]) and Path("figures/cells/measures.png").exists()
    assert all(images.shape == (125, 784) for images in variables["kinds"].values())
    real = final["real_coverage"]
    assert final["copies_coverage"] > 0.9 * real < final["blurred_coverage"]
    assert 0.7 * real < final["half_noise_coverage"] < real
    assert final["repeated_coverage"] < 0.1 > final["noise_coverage"]
    assert final["real_agreement"] > 0.4 > final["double_agreement"] > 0.1
    assert final["noise_agreement"] < 0.1
    assert final["repeated_agreement"] in (0, 1) and final["averages_agreement"] > 0.9
    halves = (final["real_agreement"] + final["noise_agreement"]) / 2
    assert final["half_noise_agreement"] == pytest.approx(halves, abs=0.1)


def test_readme_by_heart():
    cell, variables = cell_with("cells/by_heart.png"), {}
    curves = {"D_x": [0.6, 0.9], "D_held_out": [0.5, 0.1]}
    for path in re.findall(r"figures/[\w/]*dcgan_metrics.json", cell):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"history": curves}))
    exec(cell, variables)
    for ax in variables["fig"].axes:
        assert {line.get_label()[:8]: line.get_ydata().tolist() for line in ax.lines} == {
            "training": curves["D_x"], "held-out": curves["D_held_out"]}
        assert ax.get_ylim() == (0, 1)
    assert Path("figures/cells/by_heart.png").exists()


SMALL = "--hidden 8 --latent-dim 2 --epochs 1 --synthetic --device cpu".split()


@pytest.mark.parametrize("known", [True, False])
def test_readme_truth(known, no_figures):
    vae.main(SMALL + ["--binarize"])
    path = Path("figures/synthetic/vae.pt")
    saved = torch.load(path)
    if known:  # the decoder ignores z, so p(x) = p(x|z), whatever z; and the posterior is N(0, I)
        saved["model"]["decoder.2.weight"] *= 0
        torch.save(saved, path)
    cell = cell_with("truth_posterior").replace("figures/k2_binarized", "figures/synthetic")
    cell = cell.replace("[768, 512]", "[8]").replace("5000", "500").replace("200_000", "5000")
    cell = cell.replace("[:100]", "[:20]").replace(", 20)", ", 5)").replace(", 40)", ", 10)")
    variables = {}
    exec(cell, variables)

    final = json.loads(Path("figures/synthetic/truth_metrics.json").read_text())["final"]
    truth = final["grid_8_5"]
    assert final["grid_4_10"] == pytest.approx(truth, abs=1e-3)  # it stands still
    assert truth - 0.05 < final["draws_500_mean"] < final["draws_10_mean"] < final["draws_1_mean"]
    assert final["prior_mean"] == pytest.approx(truth, abs=0.2)
    assert final["own_mean"] < final["draws_1_mean"]
    assert variables["gap"].min() > -0.05  # ELBO is a bound for each digit
    if known:
        x, z = variables["x"], torch.zeros(20, 2)
        exact = variables["model"].reconstruction_loss(x, z)
        check(variables["truth"], exact, "The grid is not p(x)")
        check(variables["posterior"] @ variables["grid"], z, "The posterior is not N(0, I)")
        check(variables["spread"], z + 1, "The posterior is not N(0, I)")


def test_readme_clouds(no_figures):
    Path("figures").mkdir()
    coder, model = ae.Autoencoder(torch.zeros(784), [8], 2), vae.VAE(torch.zeros(784), [8], 2)
    for net in coder, model:
        net.encoder[-1].weight.data *= 0
        net.encoder[-1].bias.data *= 0  # all clouds of the VAE are N(0, I)
    coder.encoder[-1].bias.data += 9  # and all codes of the autoencoder are (9, 9)
    for name, net in ("ae", coder), ("vae", model), ("k2/vae", model), ("k2_beta_0/vae", model):
        Path(f"figures/{name}.pt").parent.mkdir(exist_ok=True)
        torch.save({"model": net.state_dict()}, f"figures/{name}.pt")
    variables = {}
    cell = cell_with("cells/kl.png").replace("[768, 512], 32", "[8], 2")
    exec(cell.replace("[768, 512], 2", "[8], 2"), variables)
    final = json.loads(Path("figures/cells/clouds_metrics.json").read_text())["final"]
    assert final["ae_share"] == final["ae_test"] == 0
    assert final["ae_draw"] == pytest.approx(9 * 2**0.5, abs=0.3)
    assert final["vae_share"] == pytest.approx(0.5, abs=0.1) and final["k2_sigma"] == 1
    check(variables["kl"], torch.zeros(2), "KL of N(0, I)")


def test_readme_pokes(capsys):
    ae.main(SMALL)
    vae.main(SMALL)
    variables = {}
    for name in "ae", "vae":
        cell = cell_with(f"poke_{name}").replace("figures/", "figures/synthetic/")
        exec(cell.replace("[768, 512], 32", "[8], 2").replace("(9, 32)", "(9, 2)"), variables)
        assert Path(f"figures/synthetic/poke_{name}.png").exists()
    moved = variables["copies"] - variables["z"]
    check(moved[:, 0], torch.linspace(-8, 8, 9), "The first number is not moved")
    check(moved[:, 1], torch.zeros(9), "Another number is moved")
    sums = re.search(r"sum (\S+), vae.kl_divergence (\S+)", capsys.readouterr().out)
    assert sums[1] == sums[2] != "0.000"
    assert variables["kl"][variables["order"]].diff().max() <= 0  # the dearest first


@pytest.mark.parametrize("line", ["", "dcgan.generator_loss = lambda t: F.logsigmoid(-t).mean()"])
def test_readme_game_in_the_plane(line, monkeypatch):
    monkeypatch.setattr(dcgan, "generator_loss", dcgan.generator_loss)  # log(1 - D) replaces it
    exec(line)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    variables, game = {}, cell_with("def arrows_at").replace("3000", "20")
    exec(game, variables)
    exec(cell_with("histogramdd").replace("100_000", "2_000").replace("3000", "20"), variables)
    with Image.open("figures/plane/good.png") as strip:
        assert strip.size == (500, 562)  # two moments: 1 and 20
    with Image.open("figures/plane/good.gif") as film:
        assert film.n_frames == 20

    G, D, centres = (variables[key] for key in ("G", "D", "centres"))
    fake = G(torch.randn(200, 2)).detach()
    arrows = variables["arrows_at"](fake, D)
    ahead = fake + 1e-3 * arrows / arrows.norm(dim=1, keepdim=True)
    assert (D(ahead) > D(fake)).float().mean() > 0.9, "Arrows do not point up D"

    # Points of the data lie on the ring, and near each of eight different centres.
    real = variables["draw_real"](1000)
    distance, nearest = torch.cdist(real, centres).min(1)
    assert distance.max() < 0.6 and len(nearest.unique()) == 8
    assert real.norm(dim=1).mean() == pytest.approx(2, abs=0.05)

    final = json.loads(Path("figures/plane/good_metrics.json").read_text())["final"]
    assert final["step"] == [1, 20] and final["best_loss_D"] < final["loss_D"]
    assert final["best_loss_D"][0] < 0.1, "At first the best D sees all: log of the shares?"

    row, _ = variables["draw"](1, lambda z: variables["real"], D)  # a perfect G
    assert row["clusters"] == 8 and row["near"] > 0.95
    check(row["best_loss_D"], torch.tensor(2 * math.log(2)), "The best D says 1/2 everywhere")


def test_readme_first_aid_figures(no_figures):
    cell = cell_with("dcgan_first_aid")
    folders = re.findall(r'": "(\w+)"', cell)
    for folder in [Path("figures/aid", name) for name in folders if name != "plain"]:
        folder.mkdir(parents=True)
    folder = Path("figures/few_paintings/plain")
    folder.mkdir(parents=True)
    for path in [*Path("figures/aid").iterdir(), folder]:
        frames = 10 * [torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)]
        torch.save({"frames": frames}, path / "dcgan.pt")
    exec(cell, {})
    assert Image.open(folder / "samples.jpg").size == (530, 134)

    cell = cell_with("right_metrics").replace("[768, 512], 32", "[8], 2").replace("8, 32", "8, 2")
    vae.main(SMALL)
    for name in re.findall(r'"(\w+)"', cell.partition("for run in [")[2].partition("]")[0]):
        for seed in "", "-seed1":
            shutil.copytree("figures/synthetic", f"figures/aid/vae_{name}{seed}")
    exec(cell, {})
    path = Path("figures/aid/vae_KL_sign-seed1/right_metrics.json")
    final = json.loads(path.read_text())["final"]
    assert final["right"] == pytest.approx(final["test_loss"], rel=0.02)


def test_readme_first_aid_questions(as_committed):
    """What the questions of part 5 find in logs, at epoch 5 and at the last one."""
    aid = HERE / "figures/aid"
    runs = [*aid.glob("*/vae_m*.json"), *aid.glob("*/dcgan_m*.json")]
    runs += (HERE / "figures/few_paintings").glob("plain*/*.json")
    runs += [HERE / f"figures/{name}/dcgan_metrics.json" for name in
             (".", "class", "class-seed1")]
    names = {"plain": "D learns by heart", "both pile up": "G gradients pile up",
             "both averaged": "error averaged", "adam defaults": "Adam defaults"}
    counts = {kind: [0, 0, 0] for kind in ("a trouble", "a tip", "none")}
    for path in runs:
        metrics = json.loads(path.read_text())
        name = path.parent.name.removeprefix("vae_").removesuffix("-seed1").replace("_", " ")
        made, _, tip = name.partition("-")
        made = names.get(made, made)
        ill = "aid" in path.parts and made != "healthy" or made == "D learns by heart"
        right = [made, None] if tip else [made] if ill else [None]
        count = counts["a tip" if tip else "a trouble" if ill else "none"]
        count[0] += 1
        count[1] += trouble_of(metrics, 5) in right
        count[2] += trouble_of(metrics) in right
    for kind, (n, early, late) in counts.items():
        assert f"| {kind} | {n} | {early} | {late} |" in README
    longer = json.loads((HERE / "figures/longer/dcgan_metrics.json").read_text())
    assert trouble_of(longer, 100) is None and trouble_of(longer) == "D learns by heart"
    answers = "D dominates", "rate too high", None, "G never moves", "D learns by heart"
    for n, answer in enumerate((*answers, "error averaged"), 1):
        [path] = aid.glob(f"patients/{n}/*_metrics.json")
        assert trouble_of(json.loads(path.read_text())) == answer


def test_readme_first_aid_tips():
    """A tip helps or harms if SWD of both seeds lies 5% outside of both without it."""
    table = r"<!-- rows: (\S+~ .*) \| columns: swd coverage - -->\n((?:\|.*\n)+)"
    runs, rows = re.search(table, README).groups()
    verdicts = [row.split("|")[-2].strip() for row in rows.splitlines()[2:]]
    assert len(verdicts) == len(runs.split())
    for run, verdict in zip(runs.split(), verdicts):
        trouble, hyphen, _ = run.partition("-")
        without, swd = measured(f"{trouble}/dcgan~" if hyphen else run, "swd"), measured(run, "swd")
        word = ("helps" if max(swd) <= 0.95 * min(without)
                else "harms" if min(swd) >= 1.05 * max(without) else "nothing")
        assert verdict == (word if hyphen else ""), run


def test_readme_explorer_samples_and_comparison(no_figures, monkeypatch):
    ae.main(SMALL)
    vae.main(SMALL)
    dcgan.main(TINY_GAN + "--digits --epochs 1 --limit 48".split())
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    variables = {}
    exec(cell_with("mpl_connect").replace("figures/k2", "figures/synthetic"), variables)
    variables["draw"](SimpleNamespace(inaxes=variables["plane"], xdata=1.0, ydata=-1.0))
    assert variables["image"].get_array().max() > 0

    cell = cell_with("generate(G, torch.randn(64").replace("figures/", "figures/synthetic/")
    exec(cell, variables)
    assert variables["images"].shape == (64, 3, 64, 64)

    cell = cell_with("there_and_back").replace("figures/digits", "figures/synthetic")
    cell = cell.replace("10_000", "200").replace("[768, 512], 32", "[8], 2")
    exec(cell.replace("generator(32)", "generator(4)").replace("(n, 32)", "(n, 2)"), {})
    final = json.loads(Path("figures/synthetic/compare_metrics.json").read_text())["final"]
    assert final["real_coverage"] > final["AE_coverage"]


def test_readme_measured_again(no_figures, monkeypatch):
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(60, seed))
    dcgan.main(TINY_GAN + "--epochs 1".split())
    cell, variables = cell_with("again_metrics.json"), {}
    cell = re.sub(r"for run in .*:", 'for run in ["synthetic"]:', cell).replace("4096", "1280")
    exec(cell, variables)
    final = json.loads(Path("figures/synthetic/again_metrics.json").read_text())["final"]
    assert final["least"] < final["most"]
    assert variables["G"][1].num_batches_tracked == 20  # the last measure is of all 1,280 draws
    assert final["log"] == variables["state"]["history"]["swd"][-1]


def test_readme_one_digit_out(no_figures, monkeypatch):
    trained, train = [], ae.train
    monkeypatch.setattr(ae, "train", lambda *a: trained.append(a[1]) or train(*a))
    cell, variables = cell_with("one_digit_out"), {}
    (out := Path("figures/tasks/one_digit_out")).mkdir(parents=True)
    exec(cell.replace("[768, 512], 32", "[8], 2").replace('"10"', '"1"'), variables)
    x, y = variables["x"], variables["y"]
    assert [len(seen) for seen in trained] == [(y != digit).sum() for digit in (1, 8)]
    assert torch.equal(trained[1], x[y != 8])
    final = json.loads((out / "auc_metrics.json").read_text())["final"]
    assert len(final) == 8 and all(0 <= value <= 1 for value in final.values())
    odd = torch.tensor([False, True, False, True, False])
    for scores, auc in ([1, 2, 3, 4, 5], 3 / 6), ([1, 4, 2, 5, 3], 1), ([9, 1, 8, 2, 7], 0):
        assert variables["auc"](torch.tensor(scores), odd) == pytest.approx(auc)


def test_readme_conditional_gan(no_figures, monkeypatch):
    fed, step = [], dcgan.train_step
    monkeypatch.setattr(dcgan, "train_step", lambda *a: fed.append((a[0], *a[4:])) or step(*a))
    cell, variables = cell_with("class LabelledG"), {}
    Path("figures/tasks/cgan").mkdir(parents=True)
    cell = cell.replace("10_000", "96").replace("500", "10").replace("[:5000", "[:100")
    exec(re.sub(r"32(?=, 110|\)|, 4)", "4", cell).replace("(G), 8", "(G), 1"), variables)
    assert len(fed) == 6
    for G, real, z in fed:  # D sees the same labels beside real images and fakes
        for images in real, G(z):
            planes = images[:, 3:].mean((2, 3))
            assert torch.equal(planes, 2 * z[:, 100:] - 1)
            assert images[:, 3:].square().eq(1).all()
    final = json.loads(Path("figures/tasks/cgan/cgan_metrics.json").read_text())["final"]
    assert final["wanted"] <= final["agreement"] and len(final["wanted_by_label"]) == 10
    assert final["wanted_real"] > 0.5


@functools.cache
def measured(runs, expression):
    """An expression of a run's metrics. a+b: mean and standard deviation. a~: of seeds 0 and 1"""
    if runs.endswith("~"):
        folder, _, name = runs[:-1].rpartition("/")
        runs = f"{folder}/{name},{folder}-seed1/{name}"
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
                template = re.sub(r"(-?[\d,]*\.?\d+)(%?)", format_of, cell, count=len(values))
                assert template.format(*values) == cell, line
                cell = re.sub(r"{.*?}", "", template)
            rest += cell
    return rest


# From the literature, or derived in the text.
PUBLISHED = {"86.76", "2.3", "1.39", "1.44", "0.69", "0.3", "0.8", "0.5", "0.9", "0.1", "0.05"}
PUBLISHED |= {"0.2", "0.7", "0.00", "0.0002", "1.61", "1.10", "5.6", "0.61"}
PUBLISHED |= {"0.11", "2.30", "0.495", "0.95", "0.01", "1.81", "1.3", "2%"}
PUBLISHED |= {"5%", "100%", "40%", "0%"}
# The limits of the questions in part 5, and numbers of the code.
PUBLISHED |= {"0.02", "0.45", "0.55", "0.99", "0.999", "20%", "50%", "80%", "0.000", "0.001"}


def test_every_number_of_readme_is_measured(as_committed):
    """What no table covers is in figures/claims.tsv: a phrase, its runs, its expressions."""
    tables = r"<!-- rows: (.*?) \| columns: (.*?) -->\n((?:\|.*\n)+)"
    text = re.sub(tables, check_table, README)
    text = re.sub(r"<!-- bands.*?</details>", "", text, flags=re.S)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    text = re.sub(r"^    .*$|<!--.*?-->|\]\(.*?\)|arXiv\s+[\d.]+", "", text, flags=re.M)
    text = " ".join(text.split())
    for claim in (HERE / "figures" / "claims.tsv").read_text(encoding="utf-8").splitlines():
        phrase, runs, expressions = claim.split("\t")
        values = [v for e in expressions.split(";") for v in measured(runs, e.strip())]
        assert text.count(phrase.format(*values)) == 1, phrase.format(*values)
        text = text.replace(phrase.format(*values), "")
    assert not set(re.findall(r"\d+\.\d+|\d+%", text)) - PUBLISHED


# ----------------------------------------------------- my runs
def trouble_of(metrics, epoch=None):
    """What the questions of README's part 5 find in a run's log up to an epoch, or None."""
    log = {name: values[:epoch] for name, values in metrics["history"].items()}
    now = SimpleNamespace(**{name: values[-1] for name, values in log.items()})
    if metrics["script"] == "vae.py":
        if now.test_loss < 0:
            return "pixels to 255" if now.test_recon < 0 else "KL sign"
        if now.test_kl < 0.1:
            return "error averaged"
        if now.test_loss < 90:
            missing = "no noise" if now.test_kl < 1 else "KL averaged"
            return missing if now.test_kl < 5 else "sigma is variance"
        return "half forgotten" if now.test_kl > 27 else None

    swd = log["swd"][-3:]
    if now.loss_G <= 0.005:
        return "log 1 minus D"
    if now.D_x < now.D_G_z1 - 0.1:
        return "D gradients pile up"
    if now.coverage > (0.5 if len(log["swd"]) < 10 else 0.8):
        return "D learns by heart" if max(log["D_held_out"][-3:]) < 0.3 else None
    if max(swd) - min(swd) < 0.5:
        return "G never moves"
    if now.swd > 600:
        return "G gradients pile up"
    if max(abs(now.D_x - 0.5), abs(now.D_G_z1 - 0.5)) < 0.05:
        return "wrong range" if now.swd > 250 else "rate too high"
    if now.D_G_z1 > 0.02 and now.D_G_z2 < now.D_G_z1 / 2:
        return "collapse" if now.coverage < 0.2 else "Adam defaults"
    return "G in eval mode" if swd[0] < swd[1] < swd[2] else "D dominates"


BAND = r"(\w+) ([\d.]+)(%?) ± ([\d.]+)"  # measure, ours, unit, how far from it a run may be


def verdict_on(metrics):
    """Compare a run with that row of README's table of bands that has its flags. A line."""
    free = "device", "out", "data", "seed", "bf16", "resume"
    flags = {name: value for name, value in metrics["args"].items() if name not in free}
    script, dataset = metrics["script"].removesuffix(".py"), metrics["dataset"]
    table = re.findall(rf"^\| `python {script}.py(.*?)` \| (\w+ [\d.]+%? ± .*) \|$", README, re.M)
    for command, bands in table:
        ours = vars(globals()[script].parse_args(command.split()))
        if flags.items() <= ours.items() and dataset.startswith(("MNIST", "abstract_art")):
            break
    else:
        default = vars(globals()[script].parse_args([]))
        flags = {name: flags[name] for name in flags if flags[name] != default[name]}
        return f"not comparable: {script}.py on {dataset} with {flags or 'no flags'}"

    off = []
    for name, ours, percent, width in re.findall(BAND, bands):
        value = metrics["final"][name]
        value = math.nan if value is None else 100 * value if percent else value
        if not abs(value - float(ours)) <= float(width):
            off.append(f"{name} is {value:.4g}{percent}, ours {ours}{percent} ± {width}{percent}")
    asked = {"vae": "MNIST", "dcgan": "abstract_art"}  # what the questions were tried on
    if off and dataset == asked.get(script) and (trouble := trouble_of(metrics)):
        off.append(f"it looks like {trouble}")
    return "NOT as ours: " + "; ".join(off) if off else "as ours"


def my_runs():
    """{path: metrics} that are not the committed ones; without git, newer than the download."""
    git = "git ls-files -z --error-unmatch common.py"
    git += ' && git ls-files -z -mo -x handout "*_metrics.json"'
    git = subprocess.run(git, shell=True, cwd=HERE, capture_output=True, encoding="utf-8")
    paths = {HERE / name for name in git.stdout.split("\0")[1:-1]}
    if git.returncode:
        minute_later = (HERE / "common.py").stat().st_mtime + 60
        paths = {p for p in HERE.rglob("*_metrics.json") if p.stat().st_mtime > minute_later}
    runs = {path: json.loads(path.read_text()) for path in sorted(paths) if path.exists()}
    return {path: run for path, run in runs.items() if "args" in run}  # not what a cell wrote


def test_bands(as_committed):
    """Our own runs lie in the inner half of their bands."""
    runs, table = re.search(r"<!-- bands: (.*?) -->\n((?:\|.*\n)+)", README).groups()
    rows = table.splitlines()[2:]
    assert len(rows) == len(runs.split())
    for row, names in zip(rows, runs.split()):
        for name in names.split(","):
            run = json.loads((HERE / f"figures/{name}_metrics.json").read_text())
            assert verdict_on(run) == "as ours"
            assert f"`python {run['script']}" in row
            for measure, ours, percent, width in re.findall(BAND, row):
                value = run["final"][measure] * (100 if percent else 1)
                assert abs(value - float(ours)) < float(width) / 2, (name, measure)
                final = run["final"] | {measure: run["final"][measure] * 3}
                assert f"OT as ours: {measure} is" in verdict_on(run | {"final": final})
    run["args"]["lr"] = 5
    assert verdict_on(run).startswith("not comparable: dcgan.py on MNIST with {'limit': 10000,")


def test_my_runs(capsys):
    lines = [f"{path.relative_to(HERE)}: {verdict_on(run)}" for path, run in my_runs().items()]
    if not lines:
        pytest.skip("no runs of yours. python vae.py, then pytest test_smoke.py -k my_runs")
    with capsys.disabled():
        print("", *lines, sep="\n")
    if any("NOT as ours" in line for line in lines):
        pytest.fail("README, parts 5 and 7, says what these lines mean", pytrace=False)
