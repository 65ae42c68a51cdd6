"""Data loading, plotting and a progress line for ae.py, vae.py and dcgan.py."""

import os
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
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

    images, unreadable = [], []
    for path in progress(find_images(folder), "Decoding"):
        try:
            images.append(read_image(path))
        except Exception as error:  # Pillow raises many types
            unreadable.append(ascii_only(f"{path.name}: {error}"))
    if unreadable:
        print(f"Unreadable images, left out: {len(unreadable)}. The first is {unreadable[0]}")
    if not images:
        raise SystemExit(f"error: --data {folder}: no image could be read")
    return ascii_only(folder.resolve().name), torch.stack(images)


def ascii_only(text):
    """The text with ? for what not every terminal can print."""
    return text.encode("ascii", "replace").decode()


def find_images(folder):
    """Paths of the images below `folder`, sorted. SystemExit if there are none."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise SystemExit(f"error: --data {folder} {what}")

    def leave_out(error):
        print(ascii_only(f"A folder is left out: {error}"))

    paths = []
    for parent, folders, files in os.walk(folder, onerror=leave_out):
        folders[:] = [name for name in folders if not name.startswith(".")]  # where walk goes next
        paths += [Path(parent, name) for name in files if not name.startswith(".")]

    images = sorted(path for path in paths if path.suffix.lower() in IMG_EXTENSIONS)
    if not images:
        found = " ".join(sorted({path.suffix.lower() or path.name for path in paths}))
        found = f"only {found}" if found else "no files"
        kinds = " ".join(IMG_EXTENSIONS)
        raise SystemExit(f"error: --data {folder} has {found}. Read are {kinds}; "
                         f"linked folders are not followed")
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
    print(f"Using {name}, as the real data failed to load or to download: {reason}. Run again with "
          f"a network, or give --data; if {folder} is damaged, delete it first.")


def draw_digits(n, seed):
    """A stand-in: digits of matplotlib's fonts, moved, turned, slanted and stretched.

    Returns images (n, 28, 28) uint8 and labels (n,).
    """
    g = torch.Generator().manual_seed(seed)
    folder = Path(matplotlib.get_data_path(), "fonts/ttf")
    fonts = sorted(folder.glob("DejaVuS*[!y].ttf"))  # skip the two Display fonts: no digits
    glyphs = torch.empty(len(fonts), 10, 28, 28)
    for i, path in enumerate(fonts):
        font = ImageFont.truetype(str(path), 24)
        for digit in range(10):
            image = Image.new("L", (28, 28))
            ImageDraw.Draw(image).text((14, 14), str(digit), fill=255, font=font, anchor="mm")
            glyphs[i, digit] = pil_to_tensor(image)

    labels = torch.randint(10, (n,), generator=g)
    images = glyphs[torch.randint(len(fonts), (n,), generator=g), labels]
    spread = torch.tensor([0.12, 0.12, 0.06])  # of the 2 x 3 matrix: its last column is the shift
    affine = torch.eye(2, 3) + spread * torch.randn(n, 2, 3, generator=g)
    grid = F.affine_grid(affine, (n, 1, 28, 28), align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0].byte(), labels


def draw_paintings(n, seed):
    """A stand-in: colours under smooth random masks, coarse to fine. (n, 3, 64, 64) uint8"""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 1, 1, generator=g)
    for cells in (2, 3, 4, 6, 8, 12):
        mask = F.interpolate(torch.randn(n, 1, cells, cells, generator=g), 64, mode="bicubic")
        mask = torch.sigmoid(20 * (mask - cells / 8))  # fine masks cover less
        x = torch.lerp(x, torch.rand(n, 3, 1, 1, generator=g), mask)
    return (255 * x).byte()


def progress(batches, label, epochs_left=0):
    """Yield the batches; in a terminal or notebook, show percent done and time left."""
    visible = sys.stderr.isatty() or "ipykernel" in sys.modules
    start = time.time()
    for i, batch in enumerate(batches, 1):
        yield batch  # here the caller's loop body runs
        if visible and (i % 10 == 0 or i == len(batches)):
            whole = (time.time() - start) * len(batches) / i  # seconds of an epoch
            left = whole * (1 - i / len(batches))
            text = f"{label}: {i / len(batches):.0%}, {left:.0f} s left"
            if epochs_left:
                text += f", {(left + epochs_left * whole) / 60:.0f} min of the run"
            print(f"{text:60}", end="\r", file=sys.stderr, flush=True)


# ------------------------------------------------------- plots
def save_figure(fig, path, replace=False):
    """Save a figure as PNG; SystemExit if it cannot be written.

    In a notebook also show it, with `replace` in the place of the last one of this name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, dpi=100, bbox_inches="tight")
    except OSError as error:
        raise SystemExit(f"error: cannot write {path}: {error.strerror}")
    if "ipykernel" in sys.modules:
        from IPython import display
        display.display(display.Image(str(path)), display_id=path.name, update=replace)


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
    """A map of codes z (N, k), coloured by digit, labels (N,), with a number where each is densest.

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
        # The densest place: where the twentieth neighbour is nearest.
        neighbours = torch.cdist(points, points).sort().values[:, min(20, len(points) - 1)]
        box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": f"C{digit}"}
        ax.annotate(digit, points[neighbours.argmin()].tolist(), weight="bold", bbox=box)
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, ls="--"))

    low, high = z.quantile(torch.tensor([0.005, 0.995]), 0)  # a few far codes would shrink the rest
    low, high = low.clamp(max=-3.2), high.clamp(min=3.2)  # the circles are always inside
    ax.set(title=title, xlabel=axis.format(1), ylabel=axis.format(2), aspect="equal")
    xlim, ylim = zip(low.tolist(), high.tolist())
    ax.set(xlim=xlim, ylim=ylim)
    ax.legend(markerscale=4, title="digit", loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(fig, path)
