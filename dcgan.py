"""DCGAN: a generator G learns to paint by fooling a discriminator D, which learns to tell G's
images from real ones.

G(z) is the image G makes from random numbers z; D(x) is the probability, according to D, that
image x is real. They play the game

    min_G max_D  E_x[ log D(x) ] + E_z[ log(1 - D(G(z))) ],  x from the data, z ~ N(0, I)
                                                         [Goodfellow et al. 2014, arXiv 1406.2661]

with convolutional networks [Radford et al. 2016, arXiv 1511.06434]. D minimises the negative of
this, Loss_D. Its network returns a logit, any number, and D(x) is the sigmoid of that. The
derivative of log(1 - D) by the logit is -D: almost 0 on G's images while D is winning, so that G
would learn almost nothing. G minimises the "non-saturating" Loss_G = -log D(G(z)) instead, whose
derivative is -(1 - D), then almost -1. If G were perfect, nothing would tell its images from real
ones, and D's best answer would be 1/2 for all: Loss_D would be 2 log 2 = 1.39, Loss_G 0.69.

The run ends with the last epoch's means, D(G(z)) before and after D's step, and with measures of
the samples; "real" is what other real images score, the target.

    python dcgan.py

    [ 40/40] Loss_D: 0.627  Loss_G: 2.786  D(x): 0.761  D(G(z)): 0.236/0.119  ...
                                   generated        real
    swd                               81.459      20.108
    repetition                         0.017       0.005
    precision                          0.915       0.892
    coverage                           0.962       0.971
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from common import load_paintings, plot_curves, plot_images, progress


# ------------------------------------------------------- model
def make_generator(width=64, latent_dim=100):
    """z (B, latent_dim, 1, 1) -> images (B, 3, 64, 64) in [-1, 1]

    For each input pixel, a transposed convolution adds its 4 x 4 kernel times that pixel to the
    output; these copies lie one stride apart. 4 is a multiple of the stride: otherwise they would
    overlap unevenly and paint a checkerboard [Odena et al. 2016].
    """
    # The generator of pytorch/examples; sizes are for width 64. Kernel, stride and padding 4, 1, 0
    # turn one pixel into 4 x 4; 4, 2, 1 double each side (padding crops the output here).
    return nn.Sequential(
        nn.ConvTranspose2d(latent_dim, 8 * width, 4, 1, 0, bias=False),
        nn.BatchNorm2d(8 * width), nn.ReLU(inplace=True),  # 512 x 4 x 4

        nn.ConvTranspose2d(8 * width, 4 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * width), nn.ReLU(inplace=True),  # 256 x 8 x 8

        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True),  # 128 x 16 x 16

        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(width), nn.ReLU(inplace=True),  # 64 x 32 x 32

        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False),
        nn.Tanh(),  # 3 x 64 x 64
    ).apply(initialise)


def make_discriminator(width=64):
    """Images (B, 3, 64, 64) in [-1, 1] -> logits (B,), with D(x) = sigmoid(logit)"""
    D = nn.Sequential(
        # Pad with black, -1. With 0, mid-grey, D could not see the contrast of a batch: halving it
        # would halve all outputs up to the first BatchNorm (no convolution has a bias), which
        # undoes any scale.
        nn.ConstantPad2d(1, -1.0),
        nn.Conv2d(3, width, 4, 2, 0, bias=False),
        nn.LeakyReLU(0.2, inplace=True),  # 64 x 32 x 32

        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True),  # 128 x 16 x 16

        nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2, inplace=True),  # 256 x 8 x 8

        nn.Conv2d(4 * width, 8 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8 * width), nn.LeakyReLU(0.2, inplace=True),  # 512 x 4 x 4

        nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False),
        nn.Flatten(0),  # (B, 1, 1, 1) -> (B,)
    ).apply(initialise)

    # Spectral normalisation divides a layer's weights, as a matrix with a row per output channel,
    # by their largest singular value, to bound how fast the layer's output changes [Miyato et al.
    # 2018, arXiv 1802.05957]. All layers get it, as in the paper, but it matters only in the last:
    # the next BatchNorm undoes any scale of the others.
    for layer in D:
        if isinstance(layer, nn.Conv2d):
            spectral_norm(layer)
    return D


def initialise(layer):
    """Weights from N(0, 0.02^2) [Radford et al. 2016], BatchNorm's scales from N(1, 0.02^2)."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, 0.02)


# ------------------------------------------------------- train
def train_epoch(G, D, G_ema, opt_G, opt_D, x, args, progress_label):
    """One pass over x (N, 3, 64, 64) uint8. Returns the means of the losses and of D's sigmoids."""
    totals = torch.zeros(5, device=x.device)
    # Drop a short last batch: its BatchNorm statistics would be poor.
    n = len(x) - len(x) % args.batch_size
    batches = torch.randperm(len(x), device=x.device)[:n].split(args.batch_size)

    for idx in progress(batches, progress_label):
        real = x[idx] / 127.5 - 1  # (B, 3, 64, 64) in [-1, 1], the range of tanh
        z = torch.randn(len(idx), args.latent_dim, 1, 1, device=x.device)

        # Step of D: minimise -log D(x) - log(1 - D(G(z))), where 1 - sigmoid(t) = sigmoid(-t).
        fake = G(z)
        logit_real = D(real)
        logit_fake = D(fake.detach())  # no gradient for G
        loss_D = -F.logsigmoid(logit_real).mean() - F.logsigmoid(-logit_fake).mean()
        opt_D.zero_grad()
        loss_D.backward()
        opt_D.step()

        # Step of G: minimise -log D(G(z)), for the same z and the new D.
        logit = D(fake)
        loss_G = -F.logsigmoid(logit).mean()
        opt_G.zero_grad()
        loss_G.backward(inputs=list(G.parameters()))  # through D, but for G's weights only
        opt_G.step()

        # As D reacts to G and G to D, G's weights move around an average [Yazici et al. 2019, arXiv
        # 1806.04498]. G_ema, their exponential moving average over about 1 / (1 - 0.995) = 200
        # steps, makes the samples.
        G_ema.update_parameters(G)

        # D(G(z)) of the same z before D's step (z1) and after it (z2)
        outputs = [logits.sigmoid().mean() for logits in (logit_real, logit_fake, logit)]
        totals += torch.stack([loss_D, loss_G, *outputs]).detach()
    names = ("loss_D", "loss_G", "D_x", "D_G_z1", "D_G_z2")
    return dict(zip(names, (totals / len(batches)).tolist()))


def train(G, D, G_ema, x, real_images, z_test, args, title, out):
    """Train on x (N, 3, 64, 64) uint8, and compare samples with real images after each epoch.

    Returns {name: [one value per epoch]}, twelve samples per epoch, and the seconds it took.
    """
    # Each player's step changes the other's gradient, so old gradients mislead: no momentum and a
    # shorter average of their squares [Karras et al. 2018, arXiv 1710.10196]. D has half G's
    # learning rate, to delay the moment when it overpowers G.
    opt_G = torch.optim.Adam(G.parameters(), lr=args.lr, betas=(0.0, 0.99), fused=True)
    opt_D = torch.optim.Adam(D.parameters(), lr=args.lr / 2, betas=(0.0, 0.99), fused=True)
    parts = {"G": G, "D": D, "G_ema": G_ema, "opt_G": opt_G, "opt_D": opt_D}
    state = {"epoch": 0, "seconds": 0.0, "history": {}, "progression": []}
    checkpoint = Path("checkpoints", out, "dcgan.pt")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if args.resume:
        state = load_checkpoint(checkpoint, args)
        for name, part in parts.items():
            part.load_state_dict(state[name])

    for epoch in range(state["epoch"] + 1, args.epochs + 1):
        start = time.time()
        torch.manual_seed(1000 * args.seed + epoch)  # so that a resumed run draws the same numbers
        row = train_epoch(G, D, G_ema, opt_G, opt_D, x, args, f"Epoch {epoch}/{args.epochs}")
        state["seconds"] += time.time() - start
        if not math.isfinite(row["loss_D"] + row["loss_G"]):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")

        # G_ema averages weights only: update_bn runs it on z to measure BatchNorm's statistics.
        update_bn(z_test.split(64), G_ema)
        fake = generate(G_ema, z_test)
        row |= compare(fake, real_images)
        for name, value in row.items():
            state["history"].setdefault(name, []).append(value)
        state["progression"].append((255 * fake[:12]).byte().cpu())
        heading = f"{title}, epoch {epoch}: samples"
        plot_images(out / "dcgan_samples.png", fake[:64].split(8), heading)
        print(f"[{epoch:3d}/{args.epochs}] Loss_D: {row['loss_D']:.3f}  Loss_G: {row['loss_G']:.3f}"
              f"  D(x): {row['D_x']:.3f}  D(G(z)): {row['D_G_z1']:.3f}/{row['D_G_z2']:.3f}"
              f"  SWD: {row['swd']:.0f}  repetition: {row['repetition']:.2f}"
              f"  coverage: {row['coverage']:.2f}", flush=True)

        state |= {"args": vars(args), "epoch": epoch}
        state |= {name: part.state_dict() for name, part in parts.items()}
        unfinished = checkpoint.with_suffix(".part")  # if interrupted, the previous one survives
        torch.save(state, unfinished)
        unfinished.replace(checkpoint)
    return state["history"], state["progression"], state["seconds"]


def load_checkpoint(path, args):
    """What train saved. SystemExit if there is no checkpoint, or if it had other arguments.

    --epochs may be larger: a run can always be continued.
    """
    if not path.exists():
        raise SystemExit(f"error: --resume: there is no {path}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in vars(args).items():
        was = state["args"].get(name)
        if was != value and name not in ("resume", "device", "out", "epochs"):
            raise SystemExit(f"error: --resume: {path} has {name} {was}, not {value}")
    if state["epoch"] > args.epochs:
        raise SystemExit(f"error: --resume: {path} already has {state['epoch']} epochs")
    return state


# ---------------------------------------------------- evaluate
@torch.no_grad()
def generate(G_ema, z):
    """z (N, latent_dim, 1, 1) -> images (N, 3, 64, 64) in [0, 1]; BatchNorm in its eval mode"""
    G_ema.eval()
    return torch.cat([G_ema(batch) for batch in z.split(256)]) / 2 + 0.5


def laplacian_pyramid(x):
    """Split images (N, 3, 64, 64) into fine detail, coarser detail and a rest.

    Detail is an image minus a blurred copy. Returns (N, 3, side, side), with sides of 64, 32
    and 16   [after Burt & Adelson 1983].
    """
    half, quarter = F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)
    fine = x - F.interpolate(half, size=64, mode="bilinear")
    middle = half - F.interpolate(quarter, size=32, mode="bilinear")
    return fine, middle, quarter


def random_patches(level, n=16):
    """n random 7 x 7 patches of each image, at the same places in each call: (n N, 3, 49)"""
    g = torch.Generator().manual_seed(0)
    i, j = torch.randint(level.shape[3] - 6, (2, len(level), n), generator=g)  # (N, n) both
    patches = level.unfold(2, 7, 1).unfold(3, 7, 1)  # a view, (N, 3, side - 6, side - 6, 7, 7)
    image = torch.arange(len(level))[:, None]  # (N, 1)
    return patches[image, :, i, j].flatten(0, 1).flatten(2)  # from (N, n, 3, 7, 7)


def sliced_wasserstein(fake, real, directions=128):
    """Sliced Wasserstein distance (SWD) of the patches of N fakes and N real images (N, 3, 64, 64).

    The Wasserstein distance is how far, on average, values must be moved to turn one set into
    the other. Numbers are moved least if the smallest goes to the smallest, and so on: so project
    patches onto a random direction, sort, and take the mean absolute difference. Average over
    directions and three scales [after Karras et al. 2018]. The unit is a thousandth of the real
    patches' standard deviation, for each colour.
    """
    g = torch.Generator().manual_seed(0)
    v = torch.randn(3 * 7 * 7, directions, generator=g).to(real.device)
    v = v / v.norm(dim=0)
    distances = []
    for a, b in zip(laplacian_pyramid(fake), laplacian_pyramid(real)):
        a, b = random_patches(a), random_patches(b)  # (n N, 3, 49)
        std = b.std((0, 2), keepdim=True)  # of each colour
        a = ((a / std).flatten(1) @ v).sort(0).values  # (n N, directions)
        b = ((b / std).flatten(1) @ v).sort(0).values
        distances.append(1000 * (a - b).abs().mean().item())
    return sum(distances) / 3


def repetition(x):
    """How much of the detail of images (N, 3, 64, 64) all of them have at the same place.

    The mean square of the mean image's detail, divided by that of the images' detail: 1 if all
    images are the same (mode collapse), about 1 / N if they have nothing in common.
    """
    fine, middle, _ = laplacian_pyramid(x)
    shares = [level.mean(0).square().mean() / level.square().mean() for level in (fine, middle)]
    return sum(shares).item() / 2


@torch.no_grad()
def random_features(x):
    """Images (N, 3, 64, 64) in [0, 1] -> (N, 512 * 3 * 3), from an untrained network.

    Images with similar edges and colours get similar features even from random convolutions.
    Trained ones favour what tells ImageNet's classes apart: for other images Naeem et al. 2020
    advise random ones.
    """
    with torch.random.fork_rng():  # leaves all other random numbers as they are
        torch.manual_seed(0)  # the same network in every run
        network = squeezenet1_1(weights=None).features.to(x.device)
    return torch.cat([network(2 * batch - 1).flatten(1) for batch in x.split(128)])


def precision_coverage(fake, real, neighbours=5):
    """How good and how varied are fakes, compared with as many real images? Features (N, d).

    The ball around each real image reaches its fifth nearest real neighbour. Precision: the
    share of fakes in any ball [Kynkaanniemi et al. 2019, arXiv 1904.06991]. Coverage: the
    share of balls with a fake inside [Naeem et al. 2020, arXiv 2002.09797]. The target is the
    score of other real images: a precision above it means that fakes avoid what is unusual.
    """
    distances = torch.cdist(real, real)  # (N, N); the nearest is itself
    radius = distances.topk(neighbours + 1, largest=False).values[:, -1:]  # (N, 1)
    hit = torch.cdist(real, fake) <= radius  # (real, fake)
    return hit.any(0).float().mean().item(), hit.any(1).float().mean().item()


def compare(fake, real):
    """The four measures of images fake, (N, 3, 64, 64) in [0, 1], compared with real ones."""
    fake = fake[: len(real)]
    precision, coverage = precision_coverage(random_features(fake), random_features(real))
    return {
        "swd": sliced_wasserstein(fake, real),
        "repetition": repetition(fake),
        "precision": precision,
        "coverage": coverage,
    }


@torch.no_grad()
def mean_D(D, x, args):
    """The mean of D(x) over x (N, 3, 64, 64) uint8, in batches as in training.

    D is never in eval mode: its BatchNorm takes its statistics from the batch, so D(x) also
    depends on the rest of it.
    """
    batches = (x / 127.5 - 1).split(args.batch_size)
    return torch.cat([D(batch).sigmoid() for batch in batches]).mean().item()


# A rule of thumb without a known source, for the means of an epoch: below Loss_D's range D is
# winning, above it D is often fooled, because D is weak or because G is good: a perfect G is
# outside, too. So judge the samples by the measures.
HEALTHY = {"loss_D": (0.3, 0.8), "D_x": (0.5, 0.9), "D_G_z1": (0.1, 0.5), "D_G_z2": (0.1, 0.5)}


def measure(history, reference, distance, held_out_distance):
    """The last epoch's values, those of other real images, and whether samples are copies.

    reference is compare(other real images, real images). distance (N,) is that of each sample
    to its nearest training image, held_out_distance (M,) that of held-out images to theirs.
    """
    final = {name: values[-1] for name, values in history.items()}
    final |= {f"real_{name}": value for name, value in reference.items()}
    final["swd_real"] = reference["swd"]

    # The share of epochs in which all the means are in their ranges.
    healthy = [[low <= y <= high for y in history[name]] for name, (low, high) in HEALTHY.items()]
    final["healthy_fraction"] = sum(map(all, zip(*healthy))) / len(healthy[0])

    # Copies would be nearer to training images than held-out images are: a ratio far below 1.
    # A mean would hide a few of them; the 5% quantile falls if one in twenty is a copy. Smooth
    # images are near as well, so look at dcgan_nearest.png.
    ratio = distance.quantile(0.05) / held_out_distance.quantile(0.05)
    final["nearest_ratio"] = ratio.item()
    return final


# ----------------------------------------------------- figures
def draw_curves(history, reference, title, out):
    """Losses and D's outputs, with the healthy ranges shaded; and the measures of the samples."""
    panels = {
        "Loss_D": {"Loss_D": history["loss_D"], "if D always said 1/2": 2 * math.log(2)},
        "Loss_G": {"Loss_G": history["loss_G"], "if D always said 1/2": math.log(2)},
        "D(x)": {"in D's step": history["D_x"]},
        "D(G(z))": {"in D's step": history["D_G_z1"], "in G's step": history["D_G_z2"]},
    }
    bands = {"Loss_D": HEALTHY["loss_D"], "D(x)": HEALTHY["D_x"], "D(G(z))": HEALTHY["D_G_z1"]}
    plot_curves(out / "dcgan_curves.png", panels, f"{title}; shaded: the healthy range", bands)

    panels = {}
    for name, value in reference.items():
        label = "SWD x 1000" if name == "swd" else name  # its unit is a thousandth
        panels[label] = {"generated": history[name], "real": value}
    plot_curves(out / "dcgan_measures.png", panels, f"{title}: compared with real images")


def draw_progression(progression, out):
    """The same noise as training goes on, as an animation."""
    frames = [to_pil_image(make_grid(images, nrow=4)) for images in progression]
    path = out / "dcgan_progression.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=300, loop=0)


def draw_nearest(fake, neighbour, distance, title, out):
    """The ten fakes (N, 3, 64, 64) nearest to a training image, and that image."""
    top = distance.argsort()[:10]
    rows, labels = [fake[top], neighbour[top]], ["generated", "nearest real"]
    notes = [f"{d:.1f}" for d in distance[top]]
    plot_images(out / "dcgan_nearest.png", rows, f"{title}: smallest distances", labels, notes)


def draw_walk(G_ema, z, title, out):
    """From z[i] to z[i + 6] on a quarter of an ellipse, cos t z[i] + sin t z[i + 6].

    Since cos^2 + sin^2 = 1, each point on it is again a draw from N(0, I). The middle of a
    straight line has half the variance: nearer to 0 than nearly all z that G has seen.
    """
    t = torch.linspace(0, math.pi / 2, 10, device=z.device).view(10, 1, 1, 1)
    rows = [generate(G_ema, t.cos() * a + t.sin() * b) for a, b in zip(z[:6], z[6:12])]
    plot_images(out / "dcgan_walk.png", rows, f"{title}: walks through the space of z")


# -------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument_group("data").add_argument
    add("--data", default="data/abstract_art", metavar="DIR", help="a folder of images")
    add("--synthetic", action="store_true", help="drawn paintings, no download")
    add("--limit", type=int, default=60_000, help="use at most this many training images")

    add = p.add_argument_group("model").add_argument
    add("--latent-dim", type=int, default=100, metavar="K", help="dimensions of z")
    add("--width", type=int, default=64, help="channels of the 32 x 32 layers; try 32 for speed")

    add = p.add_argument_group("training").add_argument
    add("--epochs", type=int, default=40, help="passes over the images")
    add("--batch-size", type=int, default=16, help="real images in a step; few, for many steps")
    add("--lr", type=float, default=2e-4, help="learning rate of G; D's is half")
    add("--average", type=float, default=0.995, help="decay of the moving average of G, per step")
    add("--seed", type=int, default=0, help="of weights, order and noise")
    devices = ("auto", "cpu", "cuda", "mps")
    add("--device", default="auto", choices=devices, help="auto: a GPU, if any")
    add("--resume", action="store_true", help="continue an earlier run")

    add = p.add_argument_group("output").add_argument
    add("--out", default="figures", metavar="DIR", help="folder for figures and metrics")

    args = p.parse_args(argv)
    if min(args.limit, args.latent_dim, args.width, args.epochs, args.batch_size) < 1:
        p.error("sizes, --limit and --epochs must be above 0")
    if args.lr <= 0 or not 0 <= args.average < 1:
        p.error("--lr must be above 0, --average from 0 to below 1")
    return args


def main(argv=None):
    """Train, measure, draw. Returns the metrics, as written to OUT/dcgan_metrics.json."""
    args = parse_args(argv)
    device = torch.device("cpu" if args.device == "auto" else args.device)
    if args.device == "auto" and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    torch.manual_seed(args.seed)

    name, images = load_paintings(args.data, args.synthetic)
    # A tenth, at most 1,024, is held out: the same for every seed.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out, x = images[order].to(device).tensor_split([min(1024, len(images) // 10)])
    # An epoch repeats a small folder until it has at least 2,000 images. --limit cuts only after
    # the repeats are counted, so a small limit makes epochs short.
    passes = math.ceil(2000 / len(x))
    x = x[: args.limit]
    least = max(args.batch_size, 16)
    if len(x) < least:
        raise SystemExit(f"error: {len(x)} training images are too few; {least} are needed")

    # Samples are compared with n training images, which G should match, and so are n other
    # training images, for the column "real". Held-out images serve to detect copies.
    n = min(1024, len(x) // 2)
    real_images, other_real = x[:n] / 255, x[n : 2 * n] / 255

    # load_paintings also draws paintings if the download fails: those go to their own folder.
    out = Path(args.out, "synthetic") if name == "drawn paintings" else Path(args.out)
    plot_images(out / "dcgan_data.png", real_images[:64].split(8), f"{name}: real images")

    # channels_last is faster on CPUs and NVIDIA's GPUs.
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last
    G = make_generator(args.width, args.latent_dim).to(device, memory_format=layout)
    D = make_discriminator(args.width).to(device, memory_format=layout)
    G_ema = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    parameters_G, parameters_D = (sum(p.numel() for p in net.parameters()) for net in (G, D))
    print(f"{name}: {len(x):,} training and {len(held_out):,} held-out images, on {device}; "
          f"parameters: G {parameters_G:,}, D {parameters_D:,}")

    z_test = torch.randn(1024, args.latent_dim, 1, 1).to(device)  # the same in every epoch
    update_bn(z_test.split(64), G_ema)
    swd_untrained = sliced_wasserstein(generate(G_ema, z_test[:n]), real_images)
    title = f"DCGAN, {name}"
    history, progression, seconds = train(
        G, D, G_ema, x.repeat(passes, 1, 1, 1), real_images, z_test, args, title, out
    )

    fake, paintings = generate(G_ema, z_test), x / 255
    reference = compare(other_real, real_images)
    features = random_features(paintings)
    distance, nearest = torch.cdist(random_features(fake[:n]), features).min(1)
    held_out_distance = torch.cdist(random_features(held_out[:n] / 255), features).amin(1)

    final = measure(history, reference, distance, held_out_distance)
    final |= {"parameters_G": parameters_G, "parameters_D": parameters_D}
    final["swd_untrained"] = swd_untrained
    # D_trained would be far above D_held_out if D had memorised its training images.
    final["D_trained"] = mean_D(D, x[: len(held_out)], args)
    final["D_held_out"] = mean_D(D, held_out, args)

    title = f"{title}, epoch {args.epochs}"
    draw_curves(history, reference, title, out)
    draw_progression(progression, out)
    draw_walk(G_ema, z_test, title, out)
    draw_nearest(fake, paintings[nearest], distance, title, out)

    metrics = {
        "script": "dcgan.py", "args": vars(args), "dataset": name,
        "torch": torch.__version__, "device": str(device),
        "seconds": seconds, "images_per_second": args.epochs * passes * len(x) / seconds,
        "history": history, "final": final,
    }
    (out / "dcgan_metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(f"{'':28}{'generated':>12}{'real':>12}")
    for key, value in reference.items():
        print(f"{key:28}{final[key]:12.3f}{value:12.3f}")
    print(f"Nearest training image, 5% quantile over that of held-out images: "
          f"{final['nearest_ratio']:.3f}")
    print(f"D(x) at the end: {final['D_trained']:.3f} for images that it was trained on, "
          f"{final['D_held_out']:.3f} for held-out ones")
    print(f"torch {torch.__version__}, {device}, {seconds:.0f} s of training; figures in {out}")
    return metrics


if __name__ == "__main__":
    # A notebook cell has no __file__, and its sys.argv is the kernel's.
    main([] if "__file__" not in globals() else None)
