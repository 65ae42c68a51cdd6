"""pytest test_smoke.py: each script end to end on drawn images, and what is easily got wrong."""

import functools
import json
import math
import re
import statistics
import subprocess
import sys
import textwrap
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread
from PIL import Image
from torch.distributions import Bernoulli, Normal, kl_divergence
from torchvision.datasets import MNIST
from torchvision.datasets.utils import download_and_extract_archive

import ae
import common
import dcgan
import vae

HERE = Path(__file__).parent
TINY = "--device cpu --synthetic --epochs 2 --batch-size 64 --hidden 64 --latent-dim 3".split()
TINY_GAN = "--device cpu --synthetic --epochs 2 --batch-size 32 --width 4 --limit 125".split()
FLAGS = {ae: TINY, vae: TINY, dcgan: TINY_GAN}
draw_digits = functools.cache(common.draw_digits)
draw_paintings = functools.cache(common.draw_paintings)


def no_network(*args, **kwargs):
    raise OSError("no route to host")


@pytest.fixture(autouse=True)
def small_and_apart(monkeypatch, tmp_path):
    """A folder of its own, 1,500 + 250 drawn digits, drawn paintings once, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "draw_digits", lambda n, seed: draw_digits(n // 40, seed))
    monkeypatch.setattr(common, "draw_paintings", draw_paintings)
    monkeypatch.setattr(common, "MNIST", no_network)
    monkeypatch.setattr(common, "download_and_extract_archive", no_network)


@pytest.fixture
def no_figures(monkeypatch):
    """For tests that do not look at figures: they are made, but not rendered."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **kwargs: None)


def error_of(call, *args):
    """The exit status or the message with which a call ends."""
    with pytest.raises(SystemExit) as stop:
        call(*args)
    return stop.value.code


# -------------------------------------------------- end to end
@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_end_to_end(script, capsys):
    name, out = script.__name__, Path("figures/synthetic")
    metrics = script.main(FLAGS[script])
    assert json.loads((out / f"{name}_metrics.json").read_text()) == metrics
    assert metrics["dataset"] in ("drawn digits", "drawn paintings")
    assert all(len(curve) == 2 for curve in metrics["history"].values())
    assert all(v is None or math.isfinite(v) for v in metrics["final"].values())

    figures = re.findall(rf"{name}_\w+\.png", Path(script.__file__).read_text())
    not_drawn = {"vae_manifold.png"}  # for two dimensions only
    assert {path.name for path in out.glob("*.png")} >= set(figures) - not_drawn
    assert all(imread(path).std() > 0.02 for path in out.glob("*.png")), "a blank figure"
    assert not list(Path("figures").glob("*.*")), "a stand-in beside the figures of real data"
    log = capsys.readouterr().out
    assert re.search(r"^(Epoch  2/2 - (Total )?Loss: |\[  2/2\] Loss_D: )", log, re.M)
    assert max(map(len, log.splitlines())) <= 200


def test_comparison_of_vae_and_autoencoder(no_figures):
    alone = vae.main(TINY)["final"]
    ae.main(TINY + ["--epochs", "1"])
    assert "ae_coverage" not in vae.main(TINY)["final"], "compared with another run's autoencoder"
    ae.main(TINY)
    final = vae.main(TINY)["final"]
    assert {"ae_test_mse", "ae_precision", "ae_coverage", "ae_fitted_coverage"} <= final.keys()
    assert final["floor"] < final["test_recon"] < final["mean_image"]
    assert alone.items() <= final.items()  # the same seed, the same run


def test_variants_of_the_vae(no_figures):
    final = vae.main(TINY + "--likelihood gaussian --latent-dim 2 --limit 300".split())["final"]
    assert final["nll"] is None and final["floor"] == 0
    final = vae.main(TINY + "--binarize --latent-dim 1 --validate".split())["final"]
    assert 0 < final["nll"] <= final["test_loss"] and final["floor"] == 0


def test_manifold_is_drawn():
    vae.main(TINY + ["--latent-dim", "2", "--epochs", "1"])
    assert imread("figures/synthetic/vae_manifold.png").std() > 0.02


def test_resume_equals_unbroken(no_figures):
    unbroken = dcgan.main(TINY_GAN)
    checkpoint = Path("checkpoints/figures/synthetic/dcgan.pt")
    weights = torch.load(checkpoint, weights_only=True)["G_ema"]
    checkpoint.unlink()
    assert "there is no" in error_of(dcgan.main, TINY_GAN + ["--resume"])

    dcgan.main(TINY_GAN + ["--epochs", "1"])
    assert "lr 0.0002, not 0.5" in error_of(dcgan.main, TINY_GAN + ["--resume", "--lr", "0.5"])
    resumed = dcgan.main(TINY_GAN + ["--resume"])
    assert "has 2 epochs" in error_of(dcgan.main, TINY_GAN + ["--resume", "--epochs", "1"])
    assert resumed["final"] == unbroken["final"] and resumed["history"] == unbroken["history"]
    resumed_weights = torch.load(checkpoint, weights_only=True)["G_ema"]
    assert all(torch.equal(weights[key], resumed_weights[key]) for key in weights)


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_as_notebook_cell(script, no_figures, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    text = Path(script.__file__).read_text()
    text = re.sub(r'("--(epochs|width)", type=int, default=)\d+', r"\g<1>4", text)
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(n, seed)[:160])
    cell = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), cell)  # with the default flags
    assert Path(f"figures/synthetic/{script.__name__}_metrics.json").exists()
    again = cell["main"](FLAGS[script] + ["--epochs", "1", "--limit", "100"])
    assert again["dataset"].startswith("drawn ")


# ---------------------------------------------------- mistakes
@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_flags(script, capsys):
    assert error_of(script.main, ["--help"]) == 0
    assert "(default: " in capsys.readouterr().out
    mistakes = ["--epochs 0", "--lr -1", "--latent-dim 0", "--hiden 5", "--limit 0", "--device gpu"]
    mistakes += ["--width 0", "--average 1"] if script is dcgan else ["--hidden 0"]
    for flags in mistakes:
        assert error_of(script.main, flags.split()) == 2
        assert "error: " in capsys.readouterr().err
    assert not Path("figures").exists()


def test_mistakes_that_end_in_one_line(no_figures):
    Path("taken").write_text("a file")
    assert "cannot write taken" in error_of(vae.main, TINY + ["--out", "taken"])
    assert "too few" in error_of(dcgan.main, TINY_GAN + ["--batch-size", "999"])
    assert "no image" in error_of(dcgan.main, ["--data", "nowhere"])
    assert "no finite loss in epoch 1" in error_of(vae.main, TINY + ["--lr", "1e9"])


# -------------------------------------------------------- data
def test_drawn_digits():
    x, y = draw_digits(2000, 1)
    assert x.shape == (2000, 28, 28) and x.dtype == torch.uint8 and y.bincount().min() > 150
    assert torch.equal(x, draw_digits.__wrapped__(2000, 1)[0])
    test_x, test_y = draw_digits(2000, 2)
    x, test_x = x.flatten(1).float(), test_x[:500].flatten(1).float()
    assert ae.knn_accuracy(x, y, test_x, test_y[:500]) > 0.9


def test_validation_digits_are_training_digits():
    _, x, _, test_x, _ = common.load_digits("data", synthetic=True)
    name, fewer, _, validation_x, _ = common.load_digits("data", synthetic=True, validate=True)
    assert name == "drawn digits (validation)" and not torch.equal(validation_x, test_x)
    assert torch.equal(torch.cat((fewer, validation_x)), x)


def idx(*shape):
    """An IDX file of zeros."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + bytes(math.prod(shape))


def test_mnist_files(monkeypatch, capsys):
    monkeypatch.setattr(common, "MNIST", MNIST)
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for split, n in ("train", 20), ("t10k", 10):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(n, 28, 28))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(n))
    name, x, y, test_x, _ = common.load_digits("data")
    assert name == "MNIST" and x.shape == (20, 784) and test_x.shape == (10, 784)
    assert y.shape == (20,) and not capsys.readouterr().out

    (raw / "train-images-idx3-ubyte").write_bytes(idx(20, 28, 28)[:-1])
    assert common.load_digits("data")[0] == "drawn digits"
    assert "delete" in capsys.readouterr().out


def test_odd_images(capsys):
    folder = Path("mine/deep er")
    folder.mkdir(parents=True)
    image = Image.fromarray(draw_paintings(138, 1)[0].movedim(0, 2).numpy())
    image.save(folder / "a.png")
    image.resize((200, 90)).convert("CMYK").save(folder / "b.jpg")
    image.convert("LA").save(folder / "c.PNG")
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:400])
    (folder / "notes.txt").write_text("not an image")
    name, x = common.load_paintings("mine")
    assert name == "mine" and x.shape == (3, 3, 64, 64) and x.dtype == torch.uint8
    assert torch.equal(x[0], draw_paintings(138, 1)[0])
    assert "1 unreadable" in capsys.readouterr().out
    assert common.load_paintings("mine", synthetic=True)[0] == "drawn paintings"


def test_download_of_paintings(monkeypatch, capsys):
    Image.new("RGB", (80, 64)).save("0.png")
    with zipfile.ZipFile("whole.zip", "w") as archive:
        archive.write("0.png", "gallery/gallery/0.png")
    Path("half.zip").write_bytes(Path("whole.zip").read_bytes()[:90])

    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)  # of this folder
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(common, "download_and_extract_archive", download_and_extract_archive)
    for file, name in ("half.zip", "drawn paintings"), ("whole.zip", "abstract_art"):
        monkeypatch.setattr(common, "KAGGLE", f"http://127.0.0.1:{server.server_port}/{file}")
        assert common.load_paintings("data/abstract_art")[0] == name
    server.shutdown()
    server.server_close()
    assert "drawn paintings" in capsys.readouterr().out
    assert [path.name for path in Path("data").iterdir()] == ["abstract_art"]


# ------------------------------------------- models and losses
def small_vae(**kwargs):
    torch.manual_seed(0)
    x = torch.rand(32, 784)
    return vae.VAE(x.mean(0), [16], 4, **kwargs), x


def test_kl_is_that_of_torch():
    mu, logvar = torch.randn(2, 50, 4)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    assert torch.allclose(vae.kl_divergence(mu, logvar), expected, atol=1e-5)


def test_likelihoods_are_those_of_torch():
    model, x = small_vae()
    z = torch.randn(32, 4)
    expected = -Bernoulli(model.decode(z), validate_args=False).log_prob(x).sum(1)
    assert torch.allclose(model.reconstruction_loss(x, z), expected, rtol=1e-4)

    model, x = small_vae(likelihood="gaussian")
    expected = -Normal(model.decode(z), math.sqrt(1 / 8)).log_prob(x).sum(1)
    constant = torch.tensor(784 / 2 * math.log(2 * math.pi / 8))
    assert torch.allclose(expected - model.reconstruction_loss(x, z), constant, rtol=1e-4)


def test_reparameterised_gradient():
    # d/dmu E[z^2] = 2 mu and d/dlogvar E[z^2] = sigma^2, for z ~ N(mu, sigma^2)
    mu = torch.full((200_000, 1), 0.7, requires_grad=True)
    logvar = torch.full((200_000, 1), -0.5, requires_grad=True)
    torch.manual_seed(0)
    vae.reparameterize(mu, logvar).square().mean().backward()
    assert mu.grad.sum().item() == pytest.approx(1.4, rel=0.02)
    assert logvar.grad.sum().item() == pytest.approx(math.exp(-0.5), rel=0.02)


def test_loss_per_image_does_not_depend_on_the_batch():
    model, x = small_vae()
    with torch.no_grad():
        model.encoder[-1].weight[4:] = 0
        model.encoder[-1].bias[4:] = -30  # sigma ~ 0, so that two draws agree
        once, twice = vae.evaluate(model, x), vae.evaluate(model, torch.cat((x, x)))
    assert once == pytest.approx(twice, rel=1e-4)
    coder = ae.Autoencoder(x.mean(0), [16], 4)
    assert ae.evaluate(coder, x) == pytest.approx(ae.evaluate(coder, torch.cat((x, x))), rel=1e-5)


def test_importance_sampling_finds_the_likelihood():
    torch.manual_seed(0)
    x = torch.rand(4, 784)
    model = vae.VAE(x.mean(0), [16], 1)  # one dimension: p(x) is an integral over a line
    model.encoder[-1].bias.data = torch.tensor([1.5, 1.0])  # a q(z|x) far from the posterior
    z = torch.linspace(-8, 8, 4001).view(-1, 1, 1).expand(-1, 4, 1)
    with torch.no_grad():
        log_joint = Normal(0, 1).log_prob(z)[..., 0] - model.reconstruction_loss(x, z)
    exact = -(log_joint.logsumexp(0) + math.log(16 / 4000)).mean().item()
    elbo = statistics.mean(sum(vae.evaluate(model, x)) for _ in range(200))
    one, ten, many = (
        statistics.mean(vae.negative_log_likelihood(model, x, samples) for _ in range(runs))
        for samples, runs in [(1, 200), (10, 200), (20_000, 1)]
    )
    assert one == pytest.approx(elbo, abs=4) and one > ten + 1 > exact
    assert many == pytest.approx(exact, abs=0.1)


def test_beta_weighs_the_kl(no_figures):
    free, dear = (vae.main(TINY + ["--beta", beta])["final"] for beta in ("0", "100"))
    assert dear["test_kl"] < 0.5 * free["test_kl"]


@pytest.mark.parametrize("make", [vae.VAE, ae.Autoencoder])
def test_training_begins_at_the_mean_image(make):
    x = torch.rand(32, 784)
    model = make(x.mean(0), [16], 4)
    model.decoder[-1].weight.data.zero_()
    assert torch.allclose(model.decode(torch.randn(3, 4)), x.mean(0).expand(3, 784), atol=1e-3)


def test_precision_and_coverage_of_digits():
    a, b = (draw_digits(500, seed)[0].flatten(1) / 255 for seed in (1, 2))
    assert min(vae.precision_coverage(a, b)) > 0.8  # two sets from one source
    assert vae.precision_coverage(1 - a, b) == (0, 0)
    precision, coverage = vae.precision_coverage(b[:1].repeat(500, 1), b)  # one image, many times
    assert precision == 1 and coverage < 0.1


# ------------------------------------------------------- DCGAN
def test_gan_networks():
    G, D = dcgan.make_generator(), dcgan.make_discriminator()
    parameters = [sum(p.numel() for p in net.parameters()) for net in (G, D)]
    assert parameters == [3_576_704, 2_765_568]
    images = G(torch.randn(2, 100, 1, 1))
    assert images.shape == (2, 3, 64, 64) and images.abs().max() <= 1
    assert D(images).shape == (2,)
    assert D[-2].weight.norm().item() == pytest.approx(1)  # spectral normalisation


def test_discriminator_sees_contrast():
    torch.manual_seed(0)
    D, images = dcgan.make_discriminator(), draw_paintings(2776, 1)[:16] / 127.5 - 1
    assert (D(images) - D(0.5 * images)).abs().max() > 0.1
    D[0].value = 0.0  # a grey frame fades with the images
    assert (D(images) - D(0.5 * images)).abs().max() < 0.05


def test_each_step_moves_its_own_network(monkeypatch, no_figures):
    nets, moved = {}, []
    for name in ("make_generator", "make_discriminator"):
        def make(*args, name=name, original=getattr(dcgan, name)):
            nets[name] = original(*args)
            return nets[name]
        monkeypatch.setattr(dcgan, name, make)

    def first_weight(net):
        return next(net.parameters())

    class Watched(torch.optim.Adam):
        def step(self):
            before = {name: first_weight(net).clone() for name, net in nets.items()}
            super().step()
            after = {name: first_weight(net) for name, net in nets.items()}
            moved.append([name for name in nets if not torch.equal(before[name], after[name])])

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    dcgan.main(TINY_GAN + ["--epochs", "1", "--limit", "96"])
    assert moved == [["make_discriminator"], ["make_generator"]] * 3


@pytest.mark.parametrize("player", ["D", "G"])
def test_each_player_lowers_its_own_loss(player, monkeypatch, no_figures):
    class Alone(torch.optim.Adam):
        def step(self):
            of_D = self.param_groups[0]["params"][0].shape[1] == 3  # its first layer sees RGB
            if of_D == (player == "D"):
                super().step()

    monkeypatch.setattr(torch.optim, "Adam", Alone)
    average = {"D": "0", "G": "0.9"}[player]
    history = dcgan.main(TINY_GAN + ["--lr", "2e-3", "--average", average])["history"]
    assert history[f"loss_{player}"][1] < history[f"loss_{player}"][0]
    state = torch.load("checkpoints/figures/synthetic/dcgan.pt", weights_only=True)
    same = torch.equal(state["G_ema"]["module.0.weight"], state["G"]["0.weight"])
    assert same == (player == "D")  # an average with decay 0 is G itself


def test_small_folder_is_gone_through_several_times(monkeypatch, no_figures):
    sizes, train_epoch = [], dcgan.train_epoch

    def counted(*args):
        sizes.append(len(args[5]))
        return train_epoch(*args)

    monkeypatch.setattr(dcgan, "train_epoch", counted)
    dcgan.main(TINY_GAN)
    monkeypatch.setattr(common, "draw_paintings", lambda n, seed: draw_paintings(n, seed)[:444])
    dcgan.main(TINY_GAN)
    assert sizes == [125, 125, 5 * 125, 5 * 125]  # of 400 images, of which 125 are asked for


def test_gan_measures_move_the_right_way():
    x = draw_paintings(400, 1).float() / 255
    real, others = x[:200], x[200:]
    fog = F.interpolate(F.avg_pool2d(others, 16), size=64, mode="bilinear")
    marked = others.clone()
    marked[:, :, 10:40, 50:56] = 0.05  # the same mark at the same place
    tiles = F.unfold(others, 8, stride=8)[:, :, torch.randperm(64)]
    tiles = F.fold(tiles, 64, 8, stride=8)
    one = others[:1].expand(200, -1, -1, -1)

    good = dcgan.compare(others, real)
    bad = {"fog": fog, "marked": marked, "tiles": tiles, "one": one}
    bad = {name: dcgan.compare(images, real) for name, images in bad.items()}
    assert good["coverage"] > 0.9 and good["precision"] > 0.7 and good["repetition"] < 0.05
    assert bad["fog"]["coverage"] < 0.5 and bad["one"]["coverage"] < 0.1
    assert bad["one"]["repetition"] == pytest.approx(1) and bad["marked"]["repetition"] > 0.1
    assert min(f["swd"] for f in bad.values()) > 1.5 * good["swd"]

    copies = real[:40] + 0.02 * torch.randn(40, 3, 64, 64)
    copies, others, real = (dcgan.random_features(images) for images in (copies, others, real))
    distance, index = torch.cdist(copies, real).min(1)
    assert index.tolist() == list(range(40))
    assert distance.max() < 0.6 * torch.cdist(others, real).amin(1).median()


# ------------------------------------------------------ README
README = (HERE / "README.md").read_text()
README_CELLS = re.findall(r"```py\n(.*?)```", README, re.S)


def test_readme_images_and_links():
    for image in re.findall(r"figures/[\w./-]+\.(?:png|gif)", README):
        assert (HERE / image).exists(), image
    titles = re.findall(r"^#+ (.+)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert link[1:] in anchors if link[0] == "#" else (HERE / link).exists(), link


def test_readme_commands():
    scripts = {"ae": ae, "vae": vae, "dcgan": dcgan}
    commands = re.findall(r"python (ae|vae|dcgan)\.py([^`|&#>\n]*)", README)
    assert len(commands) > 20
    for script, flags in commands:
        scripts[script].parse_args(flags.replace("PATH", "folder").split())
    sources = "".join(Path(script.__file__).read_text() for script in scripts.values())
    for line in re.findall(r"`([^`]+)` -> `", README):  # an edit that the page asks for
        assert line in sources, line


@pytest.mark.parametrize("script", [ae, vae, dcgan])
def test_docstring_and_readme_show_the_end_of_the_committed_run(script, committed_figures):
    final = json.loads((HERE / f"figures/{script.__name__}_metrics.json").read_text())["final"]
    printed = script.__doc__.partition("    python ")[2].partition("\n\n")[2]
    assert textwrap.dedent(printed) in README
    keys = {
        ae: ["test_sse", "test_mse", "pca_mse"],
        vae: ["train_loss", "test_loss", "test_kl"],
        dcgan: ["loss_D", "loss_G", "swd", "real_swd", "coverage"],
    }
    for key in keys[script]:
        assert any(f"{final[key]:.{digits}f}" in printed for digits in (5, 3, 2)), key


def test_readme_code():
    sources = "".join(Path(script.__file__).read_text() for script in (ae, vae, dcgan))
    quotes = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(quotes) >= 3
    for quote in quotes:  # which stand there without their indentation
        indented = [textwrap.indent(quote, " " * n) for n in (0, 4, 8, 12)]
        assert any(text in sources for text in indented), quote


def test_readme_exercises(no_figures, monkeypatch):
    monkeypatch.setattr(vae, "elbo_terms", vae.elbo_terms)  # a cell replaces it
    exercises = [cell for cell in README_CELLS if "import vae" in cell]
    assert len(exercises) >= 2
    for cell in exercises:
        exec(cell.replace('"30"', '"1"'), {})
        out = Path(re.search(r"figures/questions/\w+", cell)[0])
        assert list(out.glob("**/vae_metrics.json"))


def test_readme_paints_more_samples(no_figures):
    dcgan.main(TINY_GAN + ["--epochs", "1"])
    [cell] = [cell for cell in README_CELLS if "import dcgan" in cell]
    cell = cell.replace("/figures/", "/figures/synthetic/").replace("generator()", "generator(4)")
    variables = {}
    exec(cell, variables)
    assert variables["images"].shape == (64, 3, 64, 64)


@pytest.fixture
def committed_figures():
    """README is about the committed metrics, not those of a run of one's own."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "figures"], cwd=HERE)
    if changed.returncode:
        pytest.skip("figures/ is not as committed, or this is not a git checkout")


@functools.cache
def measured(runs, expression):
    """An expression of a run's metrics; mean and standard deviation for runs joined by +."""
    values = []
    for run in runs.split("+"):
        metrics = json.loads((HERE / "figures" / f"{run}_metrics.json").read_text())
        values.append(eval(expression, {}, metrics["final"] | metrics))
    return values if len(values) == 1 else [statistics.mean(values), statistics.stdev(values)]


NUMBER = r"([\d,]*\.?\d+)(%?)"


def as_shown(text, values):
    """The first numbers of text, and the values in their format: 0.1234 as 12.3% beside 1.0%."""
    pairs = list(zip(re.findall(NUMBER, text), values))
    shown = [number + percent for (number, percent), _ in pairs]
    expected = []
    for (number, percent), value in pairs:
        digits = len(number.partition(".")[2])
        expected.append(f"{100 * value if percent else value:,.{digits}f}{percent}")
    return shown, expected


def check_tables(text):
    """Each table below <!-- rows: runs | columns: expressions -->; returns the rest of text."""
    for comment, table in re.findall(r"<!-- (rows: .*?) -->\n((?:\|.*\n)+)", text):
        rows, columns = (part.split(":", 1)[1].split() for part in comment.split(" | "))
        lines = table.splitlines()[2:]
        assert len(lines) == len(rows)
        rest = table
        for row, line in zip(rows, lines):
            prefix, _, runs = row.rpartition("@")
            for column, cell in zip(columns, line.split("|")[2:]):
                if row != "-" and column != "-":
                    shown, expected = as_shown(cell, measured(runs, prefix + column))
                    assert shown and shown == expected, line
                    for number in shown:
                        rest = rest.replace(number, "", 1)
        text = text.replace(table, rest)
    return text


# From the literature, or derived in the text.
PUBLISHED = {"86.76", "2.3", "1.39", "1.44", "0.3", "0.8", "0.5", "0.9", "0.1", "0.01"}
PUBLISHED |= {"5%", "100%"}


def test_every_number_of_readme_is_measured(committed_figures):
    """What no table covers stands in figures/claims.tsv: a phrase, its runs, its expressions."""
    text = re.sub(r"```.*?```|`[^`]*`", "", check_tables(README), flags=re.S)
    text = re.sub(r"^    .*$|<!--.*?-->|\]\(.*?\)|arXiv\s+[\d.]+", "", text, flags=re.M)
    text = " ".join(text.split())
    for claim in (HERE / "figures" / "claims.tsv").read_text().splitlines():
        phrase, runs, expressions = claim.split("\t")
        values = [v for e in expressions.split(";") for v in measured(runs, e.strip())]
        assert text.count(phrase.format(*values)) == 1, phrase.format(*values)
        text = text.replace(phrase.format(*values), "")
    assert not set(re.findall(r"\d+\.\d+|\d+%", text)) - PUBLISHED
