"""Data loading, plotting and a progress line for ae.py, vae.py and dcgan.py."""

import socket
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
from torchvision.datasets.folder import is_image_file
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

KAGGLE = "https://www.kaggle.com/api/v1/datasets/download/bryanb/abstract-art-gallery"


def load_digits(folder, synthetic=False, validate=False, device="cpu"):
    """MNIST, downloaded to `folder` if not there; drawn digits if that fails or if `synthetic`.

    Returns name, x (N, 784) float in [0, 1], y (N,) in 0..9, test_x, test_y, on
    the device. With `validate`, the last sixth of the training digits replaces the
    test digits.
    """
    if not synthetic:
        try:
            socket.setdefaulttimeout(10)  # seconds without data
            train_set = MNIST(folder, train=True, download=True)
            test_set = MNIST(folder, train=False)
        except Exception as error:  # no network, a damaged file, no write access, ...
            explain_stand_in("drawn digits", Path(folder, "MNIST"), error)
            synthetic = True
    if synthetic:
        name = "drawn digits"
        x, y = draw_digits(60_000, seed=1)
        test_x, test_y = draw_digits(10_000, seed=2)
    else:
        name = "MNIST"
        x, y, test_x, test_y = train_set.data, train_set.targets, test_set.data, test_set.targets

    if validate:
        n = len(x) * 5 // 6
        x, y, test_x, test_y = x[:n], y[:n], x[n:], y[n:]
        name += " (validation)"

    x, test_x = (digits.to(device).flatten(1) / 255 for digits in (x, test_x))
    return name, x, y.to(device), test_x, test_y.to(device)


def load_paintings(folder, synthetic=False):
    """Images in `folder` and its subfolders, cropped to squares; drawn ones if `synthetic`.

    Returns name, x (N, 3, 64, 64) uint8. A missing folder named abstract_art is downloaded; if
    that fails, images are drawn. SystemExit if there are no images.
    """
    folder = Path(folder)
    if not synthetic and not folder.exists() and folder.name == "abstract_art":
        try:
            socket.setdefaulttimeout(10)
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
    paths = [path for path in sorted(folder.rglob("*")) if is_image_file(path.name)]
    for path in progress(paths, "Decoding"):
        try:
            with Image.open(path) as image:
                image.draft("RGB", (128, 128))  # decodes a large JPEG at a fraction of its size
                image = ImageOps.exif_transpose(image).convert("RGB")
                images.append(pil_to_tensor(ImageOps.fit(image, (64, 64))))
        except Exception:  # Pillow raises many types
            unreadable.append(path.name)

    if unreadable:
        print(f"{len(unreadable)} unreadable images left out, the first is {unreadable[0]}")
    if not images:
        raise SystemExit(f"error: --data {folder}: there is no image")
    return folder.resolve().name, torch.stack(images)


def explain_stand_in(name, folder, error):
    """Say why the real data cannot be had, and how to get it."""
    reason = (str(error).strip() or repr(error)).splitlines()[-1]
    print(f"Using {name}, since the real data failed to load or to download: {reason}.")
    print(f"For the real data run again with a network; first delete {folder}, if it is damaged.")


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


def progress(batches, label):
    """Yield the batches; in a terminal or notebook, show percent done and time left."""
    visible = sys.stderr.isatty() or "ipykernel" in sys.modules
    start = time.time()
    for i, batch in enumerate(batches, 1):
        yield batch  # here the caller's loop body runs
        if visible and (i % 10 == 0 or i == len(batches)):
            left = (time.time() - start) * (len(batches) / i - 1)
            text = f"{label}: {i / len(batches):.0%}, {left:.0f} s left"
            print(f"{text:60}", end="\r", file=sys.stderr, flush=True)


def save_figure(fig, path):
    """Save a figure as PNG; in a notebook, also show it. SystemExit if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, dpi=100, bbox_inches="tight")
    except OSError as error:
        raise SystemExit(f"error: cannot write {path}: {error.strerror}")
    if "ipykernel" in sys.modules:
        from IPython import display
        display.display(display.Image(str(path)))


def plot_images(path, rows, title, labels=(), notes=()):
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
    save_figure(fig, path)


def plot_curves(path, panels, title, bands={}):
    """panels = {y label: {curve's name: a list of one value per epoch, or a number}}

    Numbers become dashed lines. bands = {y label: (low, high)} are shaded.
    """
    rows = 1 if len(panels) <= 3 else 2
    columns = -(-len(panels) // rows)  # rounded up
    fig = Figure(figsize=(max(6, 4.2 * columns), 3.4 * rows), layout="constrained")
    fig.suptitle(title, fontsize=10)
    axes = fig.subplots(rows, columns, squeeze=False).flat
    for ax, (label, curves) in zip(axes, panels.items()):
        for i, (name, y) in enumerate(curves.items()):
            if isinstance(y, list):
                ax.plot(range(1, len(y) + 1), y, ".-", ms=4, color=f"C{i}", label=name)
            else:
                ax.axhline(y, ls="--", color=f"C{i}", label=f"{name}: {y:.4g}")
        if label in bands:
            ax.axhspan(*bands[label], color="C2", alpha=0.12)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        ax.legend()
    save_figure(fig, path)


def scatter_digits(path, maps, labels):
    """Maps {title: codes (N, k)} side by side, coloured by digit (N,), each on its own scale.

    z itself for k <= 2, otherwise its first two principal components. Dashed circles: 1, 2
    and 3 standard deviations of N(0, I), a VAE's prior; an autoencoder has none, and the circles
    show how far its codes are from such draws. Each digit is printed at the median of its points.
    """
    fig = Figure(figsize=(5 * len(maps), 4.4), layout="constrained")
    axes = fig.subplots(1, len(maps), squeeze=False)[0]
    for ax, (title, z) in zip(axes, maps.items()):
        z = F.pad(z.cpu(), (0, max(0, 2 - z.shape[1])))  # for k = 1
        name = "$z_{}$"
        if z.shape[1] > 2:
            name = "principal component {} of z"
            directions = torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:2]
            z = z @ directions.T  # not centred: z = 0 stays at the origin
        for digit in range(10):
            points = z[labels.cpu() == digit]
            ax.scatter(*points.T, s=3, alpha=0.5, lw=0, color=f"C{digit}", label=digit)
            ax.annotate(digit, points.median(0).values.tolist(), weight="bold")
        for radius in (1, 2, 3):
            ax.add_patch(Circle((0, 0), radius, fill=False, ls="--"))
        ax.set(title=title, xlabel=name.format(1), ylabel=name.format(2), aspect="equal")
    axes[-1].legend(markerscale=5, title="digit", loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(fig, path)
