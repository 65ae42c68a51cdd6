"""Data loading and plotting for ae.py, vae.py and dcgan.py. No model, no loss, no training loop is in here."""

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure  # not pyplot: it needs no display and leaves a notebook's backend alone
from PIL import Image, ImageOps
from torchvision.datasets.mnist import MNIST, read_image_file, read_label_file
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

PAINTINGS = "https://www.kaggle.com/api/v1/datasets/download/bryanb/abstract-art-gallery"
PATIENCE = 10  # seconds without a byte, then a download is given up


def fail(message, status=1):
    """End the run with one line on stderr: for mistakes of the user, not of the code."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


@contextlib.contextmanager
def one_line_errors():
    """As a decorator of main: a run that is interrupted (Ctrl-C, SIGTERM, a closed pipe) or out of memory ends with one line."""
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(ValueError):                     # outside of the main thread signals cannot be set, nor do they arrive
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; if an epoch was finished, the same command with --resume goes on after it")
    except RuntimeError as e:
        if "out of memory" not in str(e) and "allocate memory" not in str(e):       # CUDA's and MPS's words, the CPU's
            raise
        fail("out of memory; try a smaller --batch-size or a smaller network")
    except BrokenPipeError:                                   # as in: python vae.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())                # or Python complains again when it exits
        fail("nobody reads the output any more; with --resume the same command goes on after the last finished epoch")
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, handler)


def pick_device(name):
    """A torch device's name; for "auto" the first at hand of CUDA, MPS, CPU. SystemExit if torch knows no such device here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as e:
        fail(f"--device {name}: {str(e).splitlines()[0]}", 2)
    return name


def downloaded(fetch, what, folder, mend, into):
    """True if the download fetch() into the folder `into` works; else say why not, and that the stand-in is used. SystemExit if a file is in its way."""
    errors = []

    def attempt():
        try:
            fetch()
        except Exception as e:  # no route, no name server, an HTTP error, half a file: all end here
            errors.append(e)

    def arrived():
        try:
            return sum(f.stat().st_size for f in into.rglob("*") if f.is_file())
        except OSError:  # a file was moved away meanwhile: no silence
            return math.nan
    # A thread, because no time limit reaches a name server that does not answer, and one per address is too long for a host with eight.
    thread, before = threading.Thread(target=attempt, daemon=True), None
    thread.start()
    while thread.is_alive() and before != (before := arrived()):
        thread.join(PATIENCE)
    error = errors[0] if errors else TimeoutError(f"nothing came for {PATIENCE} s") if thread.is_alive() else None
    if isinstance(error, (FileExistsError, NotADirectoryError, PermissionError)):
        fail(f"--data: cannot download to {folder}: {error.strerror}")
    if error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip("<>.")
        print(f"Data: drawn {what}, because there are no real ones in {folder} and their download failed: {reason}.\n"
              f"      For real ones run again with a network, or {mend}.")
    return not error


def load_digits(folder, synthetic=False, limit=None, device="cpu", validate=False):
    """MNIST from folder/MNIST/raw, downloaded if missing; drawn digits if that fails (it says so) or if `synthetic`.

    Returns name, x (N, 784) float in [0, 1], y (N,) int64 in 0..9, test_x (M, 784), test_y (M,): whole sets on the device,
    so that a batch is x[idx] and needs no workers. `limit` keeps the first images of x. `validate` puts the last sixth of x in the place
    of the test images, and the name says so. SystemExit names a damaged file.
    """
    raw = Path(folder) / "MNIST" / "raw"
    files = [raw / f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    if synthetic:
        print("Data: drawn digits, as --synthetic asks; not MNIST.")
    elif not all(f.is_file() for f in files):
        synthetic = not downloaded(lambda: MNIST(folder, download=True), "digits", raw, "put its four unpacked IDX files there", raw)
    tensors = [*draw_digits(60_000, seed=1), *draw_digits(10_000, seed=2)] if synthetic else []
    for f in files if not synthetic else []:
        try:
            tensors.append(read_image_file(str(f)) if "images" in f.name else read_label_file(str(f)))
            t = tensors[-1]
            good = len(t) > 9 and t.shape[1:] == (28, 28) if "images" in f.name else t.shape == tensors[-2].shape[:1] and t.max() < 10
        except Exception:  # torchvision's reader answers a damaged file with any of half a dozen exceptions
            good = False
        if not good:
            fail(f"{f} is damaged or not MNIST: delete it and its .gz, and the next run downloads it again")
    x, y, test_x, test_y = (t.flatten(1).to(device).float() / 255 if t.dim() == 3 else t.to(device) for t in tensors)
    if validate:
        n = len(x) * 5 // 6
        x, y, test_x, test_y = x[:n], y[:n], x[n:], y[n:]
    return ("drawn digits" if synthetic else "MNIST") + " (validation)" * validate, x[:limit], y[:limit], test_x, test_y


def draw_digits(n, seed):
    """A stand-in for MNIST: n images (n, 28, 28) uint8 and labels (n,) int64, balanced, the same for the same seed.

    A digit is a pen stroke and its distance field: how far is each point of the plane from the stroke? An image samples
    the field on a grid of its own (turned, slanted, stretched, bent) and inks what lies within its pen's width. As in
    MNIST a digit fits a 20x20 box and has its centre of mass in the middle of the image.
    """
    def arc(cx, cy, rx, ry, start, stop):  # points (P, 2), 0.04 apart; degrees, clockwise from the right: y points down
        t = torch.linspace(start, stop, 2 + int(abs(stop - start) * (rx + ry) / 4.6)).deg2rad()
        return torch.stack((cx + rx * t.cos(), cy + ry * t.sin()), -1)

    def line(*xy):  # points (P, 2), 0.04 apart, on the polyline x0, y0, x1, y1, ...
        p = torch.tensor(xy).float().view(-1, 2)
        return torch.cat([torch.lerp(a, b, torch.linspace(0, 1, 2 + int(25 * (b - a).norm()))[:, None]) for a, b in zip(p, p[1:])])

    strokes = [[arc(0, 0, .62, 1, 0, 360)],  # 0; x to the right and y down, in [-1, 1]
               [line(0, -1, 0, 1)],
               [arc(0, -.45, .6, .55, -160, 60), line(.3, .03, -.3, .7, 0, .9, .7, .8), arc(-.4, .75, .22, .2, -60, -330)],
               [arc(-.05, -.5, .55, .5, -150, 90), arc(-.05, .5, .65, .5, -90, 150)],
               [line(-.55, -.9, -.6, 0, .55, 0), line(.5, -.9, .45, 1)],
               [line(.7, -.9, -.35, -.9, -.45, -.1), arc(-.1, .4, .6, .6, -110, 140)],
               [line(.35, -1, -.1, -.6), arc(.25, .35, .75, 1.1, -125, -180), arc(0, .5, .5, .48, 0, 360)],
               [line(-.6, -.6, -.55, -.85, .6, -.85, .2, 0, .05, 1)],
               [arc(0, -.5, .45, .45, 0, 360), arc(0, .5, .52, .5, 0, 360)],
               [arc(0, -.45, .5, .45, 0, 360), line(.5, -.45, .45, .2), arc(-.05, .2, .5, .8, 0, 80)]]
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    labels, images = torch.randperm(n, generator=g) % 10, torch.empty(n, 28, 28, dtype=torch.uint8)
    canvas = torch.cartesian_prod(torch.linspace(-1.5, 1.5, 64), torch.linspace(-1.5, 1.5, 64)).flip(-1)  # (4096, 2): x, y
    for digit, stroke in enumerate(map(torch.cat, strokes)):
        m = (labels == digit).sum().item()
        field = torch.cdist(canvas, stroke).amin(1).view(1, 1, 64, 64)
        turn, slant, stretch = .13 * normal(m), .27 * normal(m) - .1, (.15 * normal(m)).exp()
        c, s = turn.cos(), turn.sin()                                        # A: a rotation after a shear
        A = torch.stack((c * stretch, c * slant - s, s * stretch, s * slant + c), -1).view(m, 2, 2)
        width = .5 + 1.3 * torch.rand(m, generator=g)                        # half the pen's, in pixels
        p = stroke @ A.mT                                                    # (m, P, 2)
        scale = (20 - 2 * width) / (p.amax(1) - p.amin(1)).amax(1)           # pixels per unit
        centre = .6 * normal(m, 2) - p.mean(1) * scale[:, None]
        inverse = A.inverse() / scale[:, None, None]                         # from pixels back to the stroke's plane
        theta = torch.cat((14 * inverse, -inverse @ centre[:, :, None]), -1)
        grid = F.affine_grid(theta, (m, 1, 28, 28), align_corners=False)     # (m, 28, 28, 2)
        bend = torch.sin(2.5 * grid.flip(-1) + 2 * torch.pi * torch.rand(m, 1, 1, 2, generator=g))
        grid = (grid + .07 * normal(m, 1, 1, 2) * bend) / 1.5
        far = F.grid_sample(field.expand(m, 1, 64, 64), grid, padding_mode="border", align_corners=True)[:, 0]
        ink = (width[:, None, None] - far * scale[:, None, None]) / 1.5 + .5  # an edge is 1.5 pixels soft
        images[labels == digit] = (255 * ink.clamp(0, 1)).byte()
    return images, labels


def load_paintings(folder, synthetic=False):
    """All images under `folder`; the Kaggle set if that is missing and called abstract_art; drawn ones if the download fails.

    Returns name, x (N, 3, 64, 64) uint8, sorted by path. SystemExit if there are no images.
    """
    folder = Path(folder)
    if synthetic:
        print("Data: drawn paintings, as --synthetic asks; no real ones.")
    elif not folder.exists() and folder.name == "abstract_art":
        part = folder.with_name("abstract_art.part")

        def fetch():
            download_and_extract_archive(PAINTINGS, part, filename="abstract_art.zip", remove_finished=True)
            part.replace(folder)
        shutil.rmtree(part, ignore_errors=True)       # of a download that was killed
        synthetic = not downloaded(fetch, "paintings", folder, "put any images into that folder", part)
        shutil.rmtree(part, ignore_errors=True)       # of one that failed
    if synthetic:
        return "drawn paintings", draw_paintings(2776, seed=1)
    if not folder.is_dir():
        fail(f"--data {folder}: there is no such folder")
    images, bad = [], []
    for path in progress(sorted(p for p in folder.rglob("[!.]*") if p.is_file()), "Decoding"):
        try:
            images.append(decode_image(path))
        except Exception:  # Pillow answers a damaged file with any of a dozen exceptions
            bad += [path.name] * (path.suffix.lower() in Image.registered_extensions())   # others never claimed to be images
    if bad:
        print(f"Data: {len(bad)} unreadable images left out: {', '.join(bad[:5])}{', ...' * (len(bad) > 5)}")
    if not images:
        fail(f"--data {folder}: there is no readable image in it")
    return folder.resolve().name, torch.stack(images)


def decode_image(path):
    """An image file of any size and mode, its shorter side resized to 64 and centre-cropped, as (3, 64, 64) uint8."""
    with Image.open(path) as image:
        image.draft("RGB", (128, 128))                              # a large JPEG is decoded at a half, a quarter or an eighth
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):                              # 16-bit grey, which convert() would clip to white
            image = image.point(lambda v: v / 256).convert("L")
        image = ImageOps.fit(image.convert("RGBA"), (64, 64))       # RGBA: what is transparent becomes white
        return pil_to_tensor(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def draw_paintings(n, seed):
    """A stand-in: n abstract compositions (n, 3, 64, 64) uint8 of five families, the same for the same seed.

    Twelve see-through shapes on a ground, in hues around one of the painting's own. Every shape is one formula,
    |u/a|^p + |v/b|^p < 1 on turned and bent axes u, v: an ellipse for p = 2, nearly a rectangle for p = 16.
    """
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)
    #                            p  b/a  bend edge upright
    families = torch.tensor([[16., .50, .02,  12, 1],        # colour fields
                             [16., .08, .00,  40, 1],        # grids
                             [2.0, 1.0, .00,  30, 0],        # discs
                             [4.0, .15, .12,  12, 0],        # brush strokes
                             [2.0, .70, .30,   4, 0]])       # clouds
    p, thin, bend, edge, upright = families[torch.randperm(n, generator=g) % 5].T[:, :, None, None]     # (n, 1, 1) each
    hue, spread = rand(n, 1), 0.1 + 0.5 * rand(n, 1).square()

    def colour():  # (n, 3, 1, 1) in [0, 1]
        h = hue + spread * torch.randn(n, 1, generator=g)
        rgb = 0.5 + 0.5 * torch.cos(2 * math.pi * (h + torch.tensor([0, 1 / 3, 2 / 3])))
        return ((0.2 + 0.8 * rand(n, 1)) * (1 - rand(n, 1) * (1 - rgb)))[:, :, None, None]    # brightness, saturation

    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = colour().expand(n, 3, 64, 64)
    for _ in range(12):
        cx, cy, size, turn, phase, width = (rand(n, 1, 1) for _ in range(6))
        turn = math.pi * torch.where(upright > 0, (2 * turn).floor() / 2, turn)
        dx, dy = x - 2 * cx + 1, y - 2 * cy + 1
        u, v = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
        a = 0.15 + 0.75 * size.square() + 0.8 * upright
        b = a * thin * torch.where(thin < 1, 0.4 + width, 1)
        inside = 1 - ((u / a).abs() ** p + ((v + bend * torch.sin(4 * u + 2 * math.pi * phase)) / b).abs() ** p) ** (1 / p)
        image = torch.lerp(image, colour(), (inside * b * edge).sigmoid()[:, None] * (0.5 + 0.5 * rand(n, 1, 1, 1)))
    for cells, strength in (4, 0.06), (64, 0.02):            # uneven paint, and the grain of the canvas
        image = image + strength * F.interpolate(torch.randn(n, 1, cells, cells, generator=g), size=64, mode="bicubic")
    return (255 * image.clamp(0, 1)).byte()


def output_dir(out, name):
    """The folder `out`, or out/synthetic for drawn data, made if missing. SystemExit if it cannot be written to."""
    path = Path(out) / "synthetic" if name.startswith("drawn") else Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".tmp").touch()
        (path / ".tmp").unlink()
    except OSError as e:
        fail(f"cannot write to {path}: {e.strerror}")
    return path


def save(content, path):
    """Write a figure (.png; a notebook also shows it), PIL frames (.gif), metrics (.json) or checkpoint (.pt), whole or not at all."""
    tmp = path.with_name(path.name + ".tmp")
    try:
        if path.suffix == ".pt" and content.get("epoch") == 1 and path.exists():
            os.replace(path, path.with_suffix(".previous.pt"))  # a new run: the last one's checkpoint may have cost hours
        if path.suffix == ".png":
            content.savefig(tmp, format="png", dpi=100, bbox_inches="tight")
        elif path.suffix == ".gif":
            content[0].save(tmp, format="GIF", save_all=True, append_images=content[1:], duration=400, loop=0)
        elif path.suffix == ".json":
            content = json.loads(json.dumps(content), parse_constant=lambda _: None)      # JSON knows no NaN: null
            tmp.write_text(json.dumps(content, indent=1) + "\n")
        else:
            torch.save(content, tmp)
        os.replace(tmp, path)
    except (OSError, RuntimeError) as e:  # RuntimeError: torch.save on a full disk
        fail(f"cannot write {path}: {getattr(e, 'strerror', None) or e}")
    if path.suffix == ".png" and "ipykernel" in sys.modules:
        from IPython.display import Image, display
        display(Image(filename=str(path)))


def load_checkpoint(path, config=None, parts={}):
    """The dict saved at `path`, after the parts {name: network, optimiser, ...} have taken their states from it.

    SystemExit if it is missing, damaged, of another network, or saved with another `config`, if one is given (says what differs).
    """
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                raise ValueError("a checksum is wrong")                  # torch.load looks at none
        state = torch.load(path, map_location="cpu", weights_only=True)  # weights_only: runs no code from the file
        saved = state["config"]
        config = saved if config is None else config
        differ = [f"{k} {saved.get(k)}, not {config.get(k)}" for k in config.keys() | saved.keys() if saved.get(k) != config.get(k)]
        for name, part in parts.items() if not differ else ():
            part.load_state_dict(state[name])
    except FileNotFoundError:
        fail(f"there is no checkpoint {path}")
    except Exception:
        fail(f"{path} is damaged or not a checkpoint of this script")
    return state if not differ else fail(f"--resume: {path} was made with {'; '.join(sorted(differ))}")


def progress(batches, label):
    """Yield the batches; on a terminal show label, percent and time left in place."""
    start = shown = time.time()
    for i, batch in enumerate(batches, 1):
        yield batch
        if sys.stderr.isatty() and time.time() - shown > 0.2:
            shown = time.time()
            left = (shown - start) / i * (len(batches) - i)
            print(f"\r{label} {i / len(batches):4.0%}, {left:.0f} s left \033[K", end="", file=sys.stderr, flush=True)
    print("\r\033[K" * sys.stderr.isatty(), end="", file=sys.stderr, flush=True)


def plot_images(path, rows, title, notes=None, width=8.5):
    """Images in rows = {label: (N, 784) or (N, C, H, W) in [0, 1]} or a list of these; `notes` under the columns. Not stretched."""
    images = torch.cat([r.float().cpu() for r in (rows.values() if isinstance(rows, dict) else rows)])
    images = images.view(-1, 1, 28, 28) if images.dim() == 2 else images
    (_, _, h, w), n, pad = images.shape, len(images) // len(rows), 2
    grid = make_grid(images, nrow=n, padding=pad, pad_value=0.5).clamp(0, 1)
    fig = Figure(figsize=(width, width * grid.shape[1] / grid.shape[2] + (0.7 if notes else 0.4)), layout="constrained")
    ax = fig.add_subplot()
    ax.imshow(grid.permute(1, 2, 0).numpy(), vmin=0, vmax=1)
    ax.set_title(title, fontsize=10)
    ax.set_yticks([pad + h / 2 + i * (h + pad) for i in range(len(rows))], list(rows) if isinstance(rows, dict) else [""] * len(rows))
    ax.set_xticks([pad + w / 2 + i * (w + pad) for i in range(n)], notes or [""] * n)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    save(fig, path)


def plot_curves(path, panels, title, bands={}):
    """Curves over epochs, a panel per entry of panels = {y label: {name: list, or a number for a dashed line}}; bands = {y label: (low, high)} are shaded."""
    fig = Figure(figsize=(max(6, 4.2 * len(panels)), 3.4), layout="constrained")
    fig.suptitle(title, fontsize=10)
    for ax, (label, curves) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for i, (name, y) in enumerate(curves.items()):
            if isinstance(y, list):
                ax.plot(range(1, len(y) + 1), y, ".-" if len(y) < 40 else "-", color=f"C{i}", label=name)
            else:
                ax.axhline(y, ls="--", lw=1, color=f"C{i}", label=f"{name}: {y:.4g}")
        if label in bands:
            ax.axhspan(*bands[label], color="C2", alpha=0.12)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        ax.legend()
    save(fig, path)


def scatter_digits(ax, z, labels, title):
    """Codes z (N, k) coloured by digit (N,): the plane itself for k = 2, else the two leading principal components."""
    z, labels = F.pad(z, (0, max(0, 2 - z.shape[1]))).cpu(), labels.cpu()
    axes = ["$z_1$", "$z_2$"]
    if z.shape[1] > 2:
        centred = z - z.mean(0)
        z = z @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)  # not centred: z = 0 stays at the origin
        share = z.var(0) / centred.var(0).sum()
        axes = [f"principal component {i} of z ({s:.0%} of its variance)" for i, s in enumerate(share, 1)]
    for digit in range(10):
        ax.scatter(*z[labels == digit].T.numpy(), s=3, alpha=0.5, lw=0, color=f"C{digit}", label=str(digit))
    ax.set(title=title, xlabel=axes[0], ylabel=axes[1], aspect="equal")
    ax.legend(markerscale=5, title="digit", loc="upper left", bbox_to_anchor=(1, 1))
