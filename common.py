"""Data loading, plotting and a progress line for ae.py, vae.py and dcgan.py."""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure  # not pyplot, which keeps every figure open
from matplotlib.patches import Circle
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.datasets import MNIST
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

KAGGLE = "https://www.kaggle.com/api/v1/datasets/download/bryanb/abstract-art-gallery"


# -------------------------------------------------------- data
def load_digits(folder, synthetic=False, validate=False, device="cpu"):
    """MNIST, downloaded to `folder` if it is not there; drawn digits if `synthetic` or no network.

    Returns name, x (N, 784) float in [0, 1], y (N,) in 0..9, test_x, test_y, on the device.
    With `validate`, the last sixth of the training digits replaces the test digits.
    """
    name = "MNIST"
    if not synthetic:
        try:
            train_set, test_set = (MNIST(folder, train, download=True) for train in (True, False))
            x, y = train_set.data, train_set.targets
            test_x, test_y = test_set.data, test_set.targets
        except Exception as error:  # no network, a damaged file, no write access, ...
            explain_stand_in("drawn digits", Path(folder, "MNIST"), error)
            synthetic = True
    if synthetic:
        name = "drawn digits"
        x, y = draw_digits(60_000, seed=1)
        test_x, test_y = draw_digits(10_000, seed=2)

    if validate:
        name += " (validation)"
        n = len(x) * 5 // 6
        x, y, test_x, test_y = x[:n], y[:n], x[n:], y[n:]

    x, test_x = (digits.to(device).flatten(1) / 255 for digits in (x, test_x))
    return name, x, y.to(device), test_x, test_y.to(device)


def load_paintings(folder, synthetic=False):
    """The images in `folder` and its subfolders, cropped to squares; drawn ones if `synthetic`.

    Returns name, x (N, 3, 64, 64) uint8. A missing folder named abstract_art is downloaded; if
    that fails, images are drawn. SystemExit if there are no images.
    """
    folder = Path(folder)
    if not synthetic and not folder.exists() and folder.name == "abstract_art":
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as part:
                download_and_extract_archive(KAGGLE, part, f"{part}/images", filename="art.zip")
                Path(part, "images").rename(folder)  # only when complete
        except Exception as error:
            explain_stand_in("drawn paintings", folder, error)
            synthetic = True
    if synthetic:
        return "drawn paintings", draw_paintings(2776, seed=1)

    paths = find_images(folder)
    print(f"Reading {len(paths):,} images")
    images, unreadable = [], []
    for path in paths:
        try:
            images.append(read_image(path))
        except Exception as error:  # Pillow raises many types
            unreadable.append(f"{path.name}: {error}")
    if unreadable:
        print(f"Unreadable images, left out: {len(unreadable)}. The first is {unreadable[0]!a}")
    if not images:
        raise SystemExit(f"error: --data {folder}: no image could be read")
    name = folder.resolve().name.encode("ascii", "replace").decode()  # what any terminal can print
    return name, torch.stack(images)


def find_images(folder):
    """Paths of the images below `folder`, sorted. SystemExit if there are none."""
    if not folder.is_dir():
        raise SystemExit(f"error: --data {folder}: there is no such folder")

    paths = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # where walk goes next
        paths += [Path(parent, name) for name in files if not name.startswith(".")]

    images = sorted(path for path in paths if path.suffix.lower() in IMG_EXTENSIONS)
    if not images:
        found = " ".join(sorted({path.suffix.lower() or "(no suffix)" for path in paths}))
        found = f"only {found}" if found else "no files (linked folders are not followed)"
        raise SystemExit(f"error: --data {folder} has {found}. Read are {' '.join(IMG_EXTENSIONS)}")
    return images


def read_image(path):
    """One image as a square, (3, 64, 64) uint8. What is transparent lies on white."""
    with Image.open(path) as image:
        image.draft("RGB", (128, 128))  # decodes a large JPEG at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("its pixels are floats, whose range is not known")
        if image.mode == "I" and image.getextrema()[1] > 65535:
            raise ValueError("its pixels have more than 16 bits")
        if image.mode.startswith("I"):  # 16 bits of grey: 65,535 / 257 = 255
            image = image.convert("I").point(lambda grey: grey / 257).convert("L")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return pil_to_tensor(ImageOps.fit(image.convert("RGB"), (64, 64)))


def explain_stand_in(name, folder, error):
    """Say why the real data cannot be had, and how to get it."""
    reason = (str(error).strip() or repr(error)).splitlines()[-1]
    print(f"Using {name}, as the real data failed to load or to download: {reason!a}. Run again "
          f"with a network, or give --data; if {str(folder)!a} is damaged, delete it first.")


def draw_digits(n, seed):
    """A stand-in: printed digits, moved, turned, slanted and stretched.

    Returns images (n, 28, 28) uint8 and labels (n,).
    """
    g = torch.Generator().manual_seed(seed)
    font = ImageFont.load_default(24)
    glyphs = torch.empty(10, 1, 28, 28)
    for digit in range(10):
        image = Image.new("L", (28, 28))
        ImageDraw.Draw(image).text((14, 14), str(digit), fill=255, font=font, anchor="mm")
        glyphs[digit] = pil_to_tensor(image)

    labels = torch.randint(10, (n,), generator=g)
    spread = torch.tensor([0.12, 0.12, 0.06])  # of each column of a 2 x 3 matrix; the last shifts
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


def progress(batches, epoch, epochs):
    """Yield the batches; in a terminal or notebook, show percent done and time left."""
    visible = sys.stderr.isatty() or "ipykernel" in sys.modules
    start = time.time()
    for i, batch in enumerate(batches, 1):
        yield batch  # here the caller's loop body runs
        if visible and i % 10 == 0:
            done = i / len(batches)
            whole = (time.time() - start) / done  # seconds of an epoch
            left = whole * (1 - done)
            run = (left + whole * (epochs - epoch)) / 60
            text = f"Epoch {epoch}/{epochs}: {done:.0%}, {left:.0f} s left"
            text += f", {run:.0f} min of the run"
            print(f"{text:60}", end="\r", file=sys.stderr, flush=True)
    if visible:
        print(" " * 60, end="\r", file=sys.stderr, flush=True)


# ------------------------------------------------------- plots
def save_figure(fig, path, replace=None):
    """Save a figure as PNG; SystemExit if it cannot be written. In a notebook also show it.

    With replace = False it can be replaced later, by a figure of this path with replace = True.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, dpi=100, bbox_inches="tight")
    except OSError as error:
        raise SystemExit(f"error: cannot write {path}: {error.strerror or error}")
    if "ipykernel" in sys.modules:
        from IPython import display
        how = {} if replace is None else {"display_id": str(path), "update": replace}
        display.display(display.Image(str(path)), **how)


def plot_images(path, rows, title, labels=(), notes=(), replace=None):
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


def plot_curves(path, panels, title, bands={}):
    """panels = {y label: {curve's name: a list of one value per epoch, or a number}}

    Numbers become dashed lines. bands = {y label: (low, high)} are shaded.
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


def scatter_digits(path, z, labels, title):
    """A map of codes z (N, k), coloured by digit, labels (N,), with a number at each one's median.

    It shows z itself for k <= 2, otherwise its first two principal components. Dashed circles
    mark 1, 2 and 3 standard deviations of N(0, I).
    """
    z, labels = z.cpu(), labels.cpu()
    z = F.pad(z, (0, max(0, 2 - z.shape[1])))  # for k = 1
    axis = "$z_{}$"
    if z.shape[1] > 2:
        axis = "principal component {} of z"
        directions = torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:2]
        z = z @ directions.T  # not centred: z = 0 stays at the origin

    fig = Figure(figsize=(6, 5), layout="constrained")
    ax = fig.add_subplot()
    for digit in labels.unique().tolist():
        points = z[labels == digit]
        ax.scatter(*points.T, s=5, alpha=0.7, lw=0, color=f"C{digit}", label=digit)
        box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": f"C{digit}"}
        ax.annotate(digit, points.median(0).values.tolist(), weight="bold", bbox=box)
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, ls="--"))

    low, high = z.quantile(torch.tensor([0.005, 0.995]), 0)  # a few far codes would shrink the rest
    low, high = low.clamp(max=-3.2), high.clamp(min=3.2)  # the circles are always inside
    ax.set(title=title, xlabel=axis.format(1), ylabel=axis.format(2), aspect="equal")
    xlim, ylim = zip(low.tolist(), high.tolist())
    ax.set(xlim=xlim, ylim=ylim)
    ax.legend(markerscale=4, title="digit", loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(fig, path)
