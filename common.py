"""Loading data, saving and plotting, for ae.py, vae.py and dcgan.py."""

import json
import os
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from collections import Counter
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import style
from matplotlib.colors import Normalize
from matplotlib.figure import Figure  # not pyplot, which keeps every figure open
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Circle, Ellipse
from PIL import Image, ImageOps
from torchvision.datasets import MNIST
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

KAGGLE = "https://www.kaggle.com/api/v1/datasets/download/bryanb/abstract-art-gallery"


def device(name):
    """argparse's type for --device. auto: the accelerator, if there is one that works, or cpu."""
    if name == "auto" and not torch.accelerator.is_available():
        return "cpu"
    chosen = torch.accelerator.current_accelerator().type if name == "auto" else name
    try:
        torch.ones(1, device=chosen).item()  # a kernel, which a new torch may lack for an old GPU
        return chosen
    except Exception as error:  # torch raises several types
        reason = f"{chosen}: {error}".partition("\n")[0]
    if name != "auto":
        raise ArgumentTypeError(reason)
    print(f"On the CPU, as the accelerator does not work. {reason}")
    return "cpu"


# -------------------------------------------------------- data
def load_digits(folder, synthetic=False, validate=False, device="cpu"):
    """MNIST, downloaded to `folder` if it is not there; drawn digits if `synthetic` or on failure.

    Returns name, x (N, 784) float in [0, 1], y (N,) in 0..9, test_x, test_y, on the device, in a
    random but fixed order. With `validate`, the last sixth of the training digits replaces the
    test digits. SystemExit if `folder` is a file, or a folder of images.
    """
    name, folder = "MNIST", Path(folder)
    if not synthetic:
        others = [*folder.glob("*"), *folder.glob("*/*")] if folder.name != "data" else []
        pictures = any(path.suffix.lower() in IMG_EXTENSIONS for path in others)
        if folder.is_file() or pictures and not Path(folder, "MNIST").exists():
            raise SystemExit(f"error: --data {folder}: this is no folder for MNIST; dcgan.py "
                             "without --digits reads folders of images")
        try:
            sets = [MNIST(folder, train, download=True) for train in (True, False)]
            sets = [(part.data, part.targets) for part in sets]
        except Exception as error:  # no network, a damaged file, no write access, ...
            explain_stand_in("drawn digits", folder / "MNIST", error)
            synthetic = True
    if synthetic:
        name, sets = "drawn digits", [draw_digits(60_000, seed=1), draw_digits(10_000, seed=2)]

    parts = []
    for images, labels in sets:
        order = fixed_order(len(images))  # in MNIST's own order, no part of it is a sample
        parts += [images[order].to(device).flatten(1) / 255, labels[order].to(device)]
    x, y, test_x, test_y = parts
    if validate:
        name, n = f"{name} (validation)", len(x) * 5 // 6
        x, y, test_x, test_y = x[:n], y[:n], x[n:], y[n:]
    return name, x, y, test_x, test_y


def load_paintings(folder, synthetic=False, limit=None):
    """The images in `folder` and its subfolders, cropped to squares; drawn ones if `synthetic`.

    Returns name, x (N, 3, 64, 64) uint8, their relative paths ([] if drawn): at most `limit`, in a
    random but fixed order. A missing folder named abstract_art is downloaded; if that fails,
    images are drawn. SystemExit if there are no images.
    """
    folder = Path(folder)
    if not synthetic and folder.name == "abstract_art" and not os.path.exists(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as part:
                download_and_extract_archive(KAGGLE, part, f"{part}/images", filename="art.zip")
                Path(part, "images").rename(folder)  # only when complete
        except Exception as error:
            explain_stand_in("drawn paintings", folder, error)
            synthetic = True
    if synthetic:
        return "drawn paintings", draw_paintings(2776, seed=1)[:limit], []

    paths, left_out = find_images(folder)
    paths = [paths[i] for i in fixed_order(len(paths))[:limit]]
    print(f"Reading {len(paths):,} images")
    x, files, unreadable = torch.empty(len(paths), 3, 64, 64, dtype=torch.uint8), [], []
    with ThreadPool(4) as pool:
        images = pool.imap(read_image, [folder / path for path in paths])
        for path in progress(paths):
            try:
                x[len(files)] = next(images)
                files.append(path)
            except Exception as error:  # Pillow raises many types
                unreadable.append(f"{path}: {error}")

    if unreadable:
        left_out.append(f"{len(unreadable)} unreadable, the first {unreadable[0]!a}")
    x, left_out = x[: len(files)], ", ".join(left_out)
    if not files:
        raise SystemExit(f"error: --data {folder} has no image that can be read. Found: "
                         f"{left_out or 'no files'}. Read are {' '.join(IMG_EXTENSIONS)}")
    if left_out:
        print(f"Left out: {left_out}")
    # At 8 x 8 pixels a resized copy is nearly equal: a distance of 25 is 2 grey levels in each.
    small = torch.cat([F.avg_pool2d(part.float(), 8).flatten(1) for part in x.split(500)])
    some = small[:2000]
    copies = sum(((torch.cdist(part, small) < 25).sum(1) > 1).sum() for part in some.split(500))
    if copies:
        print(f"{copies:,} of the first {len(some):,} images have a copy. D may know held-out ones")
    name = folder.resolve().name.encode("ascii", "replace").decode()  # what any terminal can print
    return name, x, files


def find_images(folder):
    """Relative paths of the images below `folder`, sorted; and what else is there, counted."""
    if not os.path.isdir(folder):
        mistake = "is a file, not a folder" if os.path.exists(folder) else "there is no such folder"
        raise SystemExit(f"error: --data {folder}: {mistake}")

    images, others = [], Counter()
    walk = os.walk(folder, onerror=lambda error: others.update(["folders without access"]))
    for parent, folders, files in walk:
        folders[:] = [name for name in folders if name[0] != "."]  # where walk goes next
        others.update("linked folders" for name in folders if Path(parent, name).is_symlink())
        for path in (Path(parent, name) for name in files if name[0] != "."):
            if path.suffix.lower() not in IMG_EXTENSIONS:
                others[ascii(path.suffix.lower())[1:-1] or "without suffix"] += 1
            elif path.name.startswith(("ae_", "vae_", "dcgan_")):
                others["figures of this lab"] += 1
            else:
                images.append(path.relative_to(folder).as_posix())
    return sorted(images), [f"{n} {kind}" for kind, n in others.most_common(9)]


def read_image(path):
    """One image as a square, (3, 64, 64) uint8. What is transparent lies on white."""
    with Image.open(path) as image:
        image.draft("RGB", (128, 128))  # decodes a large JPEG at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":  # Pillow would clip them
            raise ValueError("grey levels of more than 8 bits")
        image = ImageOps.fit(image.convert("RGBA"), (64, 64))
        white = Image.new("RGBA", image.size, "white")
        return pil_to_tensor(Image.alpha_composite(white, image).convert("RGB"))


def explain_stand_in(name, folder, error):
    """Say why the real data cannot be had and how to get it; remove folders that stayed empty."""
    reason = (str(error).strip() or repr(error)).splitlines()[-1]
    print(f"Using {name}, as the real data failed to load or to download: {reason!a}. Run again "
          f"with a network, or give --data; if {str(folder)!a} is damaged, delete it first.")
    for left in (folder / "raw", folder, Path("data")):
        with suppress(OSError):  # not there, or not empty
            left.rmdir()


def fixed_order(n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def draw_digits(n, seed):
    """A stand-in: digits of 3 x 5 dots, moved, turned and stretched. (n, 28, 28) uint8, (n,)"""
    g = torch.Generator().manual_seed(seed)
    font = "75557 26227 71747 71717 55711 74717 74757 71111 75757 75717"  # 7 is ###, 5 is #.#
    dots = [[[int(row) >> i & 1 for i in (2, 1, 0)] for row in digit] for digit in font.split()]
    glyphs = F.interpolate(255.0 * torch.tensor(dots)[:, None], (20, 12))
    glyphs = F.pad(glyphs, (8, 8, 4, 4))  # (10, 1, 28, 28)

    labels = torch.randint(10, (n,), generator=g)
    spread = torch.tensor([0.08, 0.08, 0.05])  # of each column of a 2 x 3 matrix; the last shifts
    affine = torch.eye(2, 3) + spread * torch.randn(n, 2, 3, generator=g)
    grid = F.affine_grid(affine, (n, 1, 28, 28), align_corners=False)
    images = F.grid_sample(glyphs[labels], grid, align_corners=False)
    return images[:, 0].byte(), labels


def draw_paintings(n, seed):
    """A stand-in: colours under smooth random masks, coarse to fine. (n, 3, 64, 64) uint8"""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 1, 1, generator=g)
    for cells in (2, 3, 4, 6, 8, 12):
        mask = F.interpolate(torch.randn(n, 1, cells, cells, generator=g), 64, mode="bicubic")
        mask = torch.sigmoid(20 * (mask - cells / 8))  # fine masks cover less
        x = torch.lerp(x, torch.rand(n, 3, 1, 1, generator=g), mask)
    return (255 * x).byte()


def progress(batches, epoch=0, epochs=0):
    """Yield the batches; in a terminal or notebook, show percent done and minutes left."""
    visible = sys.stderr.isatty() or "ipykernel" in sys.modules
    name = f"Epoch {epoch}/{epochs}" if epochs else "Reading"
    start, n = time.perf_counter(), len(batches)
    for i, batch in enumerate(batches, 1):
        yield batch  # here the caller's loop body runs
        if visible and (i % 10 == 0 or i == n):
            minutes = (time.perf_counter() - start) / 60 / i * (n - i + n * (epochs - epoch))
            text = f"{name}: {i / n:.0%}, {minutes:.1f} min left"
            print(f"{text if i < n else '':60}", end="\r", file=sys.stderr, flush=True)


# ------------------------------------------------------ saving
unwritten = set()  # paths of this run that could not be written
shown = {}  # in a notebook: path -> id of the figure that may be replaced


def output_folder(out, name):
    """The folder for a run, made if missing; drawn data have their own. SystemExit if it fails."""
    out = Path(out, "synthetic") if name.startswith(("drawn digits", "drawn paint")) else Path(out)
    unwritten.clear()
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise SystemExit(f"error: cannot write {out}: {error.strerror or error}")
    return out


@contextmanager
def writing(path):
    """Yield a path to write; it becomes `path`. A failure ends no run, an older file stays."""
    part = path.with_suffix(".part")
    try:
        yield part
        part.replace(path)
        unwritten.discard(path)
    except (OSError, RuntimeError) as error:  # the latter is torch.save's, on a full disk
        unwritten.add(path)
        print(f"Not written: {str(path)!a}: {str(error)!a}", flush=True)
    finally:
        with suppress(OSError):  # mostly: it is not there
            part.unlink()


def report_unwritten():
    """SystemExit if something could not be written."""
    if unwritten:
        raise SystemExit(f"error: cannot write {', '.join(sorted(map(str, unwritten)))}")


def save_weights(state, path):
    """torch.save, so that an interruption leaves the older weights whole."""
    with writing(path) as part:
        torch.save(state, part)


def save_metrics(path, args, dataset, seconds, history, final):
    """Save a run as JSON, where nan and infinity become null. Returns what was saved."""
    metrics = {
        "script": path.name.replace("_metrics.json", ".py"), "args": vars(args),
        "dataset": dataset, "torch": torch.__version__, "device": args.device,
        "seconds": seconds, "history": history, "final": final,
    }
    metrics = json.loads(json.dumps(metrics), parse_constant=lambda name: None)
    with writing(path) as part:
        part.write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def save_figure(fig, path, replace=False):
    """Save a PNG; in a notebook also show it, or replace what was last shown of this path."""
    with writing(path) as part:
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(part, format="png", dpi=100, bbox_inches="tight")
        if "ipykernel" in sys.modules:
            from IPython import display
            replace = replace and path in shown
            if not replace:
                shown[path] = f"{path} {time.time()}"  # another one in each run
            image = display.Image(part.read_bytes())
            display.display(image, display_id=shown[path], update=replace)


# ------------------------------------------------------- plots
# The same with any settings of matplotlib, and a $ in a folder's name starts no formula.
plain = style.context(["default", {"text.parse_math": False}])


@plain
def plot_images(path, rows, title, labels=(), notes=(), replace=False):
    """Rows of images, each (n, 784) or (n, C, H, W) in [0, 1]. Labels stand beside, notes below."""
    n, images = len(rows[0]), torch.cat(list(rows)).cpu()
    if images.dim() == 2:
        images = images.view(-1, 1, 28, 28)
    grid = make_grid(images, nrow=n, pad_value=0.5).movedim(0, 2)  # grey becomes RGB

    width = min(8.5, 0.85 * n)
    fig = Figure(figsize=(width, width * len(rows) / n + 0.6), layout="constrained")
    ax = fig.add_subplot()
    ax.imshow(grid.numpy(), extent=(0, n, len(rows), 0))  # an image is 1 wide, 1 high
    ax.set_title(title, fontsize=10)
    ax.set_yticks([i + 0.5 for i in range(len(labels))], labels)
    ax.set_xticks([i + 0.5 for i in range(len(notes))], notes)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    save_figure(fig, path, replace)


@plain
def plot_curves(path, panels, title, bands={}):
    """panels = {y label: {curve: a list of one value per epoch, or a number: a dashed line}}

    bands = {y label: (low, high)} are shaded.
    """
    rows = 1 if len(panels) <= 3 else 2
    columns = -(-len(panels) // rows)  # rounded up
    fig = Figure(figsize=(max(6, 4.2 * columns), 3.6 * rows), layout="constrained")
    fig.suptitle(title, fontsize=10)
    axes = fig.subplots(rows, columns, squeeze=False).flat
    for ax, (label, curves) in zip(axes, panels.items()):
        for i, (name, y) in enumerate(curves.items()):
            if isinstance(y, list):
                ax.plot(range(1, len(y) + 1), y, ".-", ms=4, color=f"C{i}", label=name)
            else:
                ax.axhline(y, ls="--", color=f"C{i}", label=f"{name}: {y:.3g}")
        if label in bands:
            ax.axhspan(*bands[label], color="C2", alpha=0.12)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        # Above the axes, where it cannot hide a curve.
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=len(curves), frameon=False)
    save_figure(fig, path)


@plain
def scatter_digits(path, z, labels, title, sigma=None, draws=None, decoded=None):
    """A map of codes z (N, k), coloured by digit, labels (N,), with a number at each one's median.

    It shows z itself for k <= 2, otherwise its first two principal components. Dashed circles mark
    1, 2 and 3 standard deviations of N(0, I). For k = 2: with sigma (N, 2), only 400 codes, as
    ellipses of two sigma; draws (n, 2) are crosses, each joined to its decoded digit (n, 784).
    """
    z, labels = z.cpu(), labels.cpu()
    axis, k = "z{}", z.shape[1]
    z = F.pad(z, (0, max(0, 2 - k)))  # for k = 1
    if k > 2:
        axis = "principal component {} of z"
        directions = torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:2]
        z = z @ directions.T  # not centred: z = 0 stays at the origin

    fig = Figure(figsize=(6, 5), layout="constrained")
    ax = fig.add_subplot()
    if k == 2 and sigma is not None:
        z, labels = z[:400], labels[:400]
        for center, size, digit in zip(z.numpy(), 4 * sigma.cpu().numpy(), labels):  # 2 sigma
            ax.add_patch(Ellipse(center, *size, ec=f"C{digit}", fill=False, alpha=0.7))
    for digit in labels.unique().tolist():
        points = z[labels == digit]
        ax.scatter(*points.T.numpy(), s=5, alpha=0.7, lw=0, color=f"C{digit}")
        box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": f"C{digit}"}
        ax.annotate(digit, points.median(0).values.tolist(), weight="bold", bbox=box)
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, ls="--"))
    if k == 2 and draws is not None:
        order = draws[:, 1].argsort(descending=True)  # so that few lines cross
        for i, (point, image) in enumerate(zip(draws[order].tolist(), decoded[order].cpu())):
            picture = OffsetImage(image.view(28, 28).numpy(), cmap="gray", norm=Normalize(0, 1))
            ax.add_artist(AnnotationBbox(
                picture, point, (1.1, 0.95 - 0.1 * i), boxcoords="axes fraction", pad=0,
                arrowprops={"arrowstyle": "-", "lw": 0.5}))
        ax.plot(*draws.cpu().T.numpy(), "kx", ms=8, mew=2)

    reach = max(3.2, z.abs().quantile(0.99).item())  # a few far codes would shrink the rest
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    ax.set(xlabel=axis.format(1), ylabel=axis.format(2))
    save_figure(fig, path)
