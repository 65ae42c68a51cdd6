"""DCGAN: a generator G learns to paint by fooling a discriminator D, which learns to tell G's
images from real ones.

G(z) is the image that G makes of random numbers z. D(x) is the probability, according to D, that
image x is real. They play the game

    min_G max_D  E_x[ log D(x) ] + E_z[ log(1 - D(G(z))) ],  x from the data, z ~ N(0, I)

[Goodfellow et al. 2014, arXiv 1406.2661], but G minimises -log D(G(z)). The networks are
convolutional [Radford et al. 2016, arXiv 1511.06434]. The column "real" is the goal.

    python dcgan.py

    [100/100] Loss_D: 0.377  Loss_G: 4.116  D(x): 0.862  D(G(z)): 0.136/0.058  ...
                     generated        real
    SWD                   52.1        12.6
    repetition            2.2%        0.3%
    coverage             94.5%       97.1%
"""

import argparse
import copy
import math
import sys
import time
from os.path import expanduser

import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import ImageDraw
from torch.optim.swa_utils import update_bn
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from common import device, load_digits, load_paintings, output_folder, plot_curves, plot_images
from common import progress, report_unwritten, save_metrics, save_weights, writing


# ------------------------------------------------------- model
def make_generator(width=64, latent_dim=100):
    """z (B, latent_dim, 1, 1) -> images (B, 3, 64, 64) in [-1, 1]"""
    # Sizes are for width 64. Kernel, stride and padding 4, 1, 0 turn one pixel into 4 x 4; with
    # 4, 2, 1 each side doubles.
    return Network(
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
    return Network(
        # Padded with black, -1, and not with 0: README, part 4, says why.
        nn.ConstantPad2d(1, -1.0),
        nn.Conv2d(3, width, 4, 2, 0, bias=False),
        nn.LeakyReLU(0.2, inplace=True),  # 64 x 32 x 32

        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width, track_running_stats=False),
        nn.LeakyReLU(0.2, inplace=True),  # 128 x 16 x 16

        nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * width, track_running_stats=False),
        nn.LeakyReLU(0.2, inplace=True),  # 256 x 8 x 8

        nn.Conv2d(4 * width, 8 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8 * width, track_running_stats=False),
        nn.LeakyReLU(0.2, inplace=True),  # 512 x 4 x 4

        nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False),
        nn.Flatten(0),  # (B, 1, 1, 1) -> (B,)
    ).apply(initialise)


def initialise(layer):
    """Weights from N(0, 0.02^2) [Radford et al. 2016], BatchNorm's scales from N(1, 0.02^2)."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, 0.02)


class Network(nn.Sequential):
    """Layers one after the other. With bf16 = True they compute in bfloat16."""

    bf16 = False

    def forward(self, x):
        # A block for each pass: autocast keeps the weights that it has converted until the end of
        # its block, and the weights may change between two passes.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return super().forward(x).float()


# -------------------------------------------------------- loss
def discriminator_loss(logit_real, logit_fake):
    """Mean of -log D(x) - log(1 - D(G(z))). Logits (B,), (B,) -> ()"""
    # D = sigmoid(logit) and 1 - sigmoid(t) = sigmoid(-t)
    return -F.logsigmoid(logit_real).mean() - F.logsigmoid(-logit_fake).mean()


def generator_loss(logit_fake):
    """Mean of -log D(G(z)), the "non-saturating" loss of Goodfellow et al. 2014. (B,) -> ()

    Where D(G(z)) is near 0, the gradient of -log D(G(z)) with respect to the logit is near -1, and
    that of log(1 - D(G(z))) is near 0.
    """
    return -F.logsigmoid(logit_fake).mean()


# ------------------------------------------------------- train
def train_step(G, D, opt_G, opt_D, real, z):
    """One step of D, then one of G.

    Returns (5,): Loss_D, Loss_G, the mean D(x), and the mean D(G(z)) before and after D's step.
    """
    # Step of D: minimise -log D(x) - log(1 - D(G(z)))
    fake = G(z)
    logit_real = D(real)
    logit_fake = D(fake.detach())  # no gradient for G
    loss_D = discriminator_loss(logit_real, logit_fake)
    opt_D.zero_grad()
    loss_D.backward()
    opt_D.step()

    # Step of G: minimise -log D(G(z)), for the same z and the new D
    logit = D(fake)
    loss_G = generator_loss(logit)
    opt_G.zero_grad()
    loss_G.backward(inputs=list(G.parameters()))  # through D, but for G's weights only
    opt_G.step()

    outputs = [logits.sigmoid().mean() for logits in (logit_real, logit_fake, logit)]
    return torch.stack([loss_D, loss_G, *outputs]).detach()


def train(G, D, x, held_out, reference, files, z_fixed, args, title, out):
    """Train on images x; after each epoch compare samples of z_fixed with `reference`.

    x and held_out (N, 3, 64, 64) uint8, or digits (N, 1, 28, 28); reference describes real images.
    Returns the averaged G, {name: [one value per epoch]}, eight samples per epoch, and the seconds
    of training.
    """
    # Each player's step changes the other's gradient, so old gradients mislead: hence no momentum
    # (the first beta is 0) [Karras et al. 2018, arXiv 1710.10196]. D has half G's learning rate, to
    # delay the moment when it overpowers G.
    opt_G = torch.optim.Adam(G.parameters(), lr=args.lr, betas=(0.0, 0.99), fused=True)
    opt_D = torch.optim.Adam(D.parameters(), lr=args.lr / 2, betas=(0.0, 0.99), fused=True)
    # As the players move around each other, G's weights move around an average. Samples are made
    # by that average [Yazici et al. 2019, arXiv 1806.04498].
    G_ema = copy.deepcopy(G)
    parts = {"G": G, "D": D, "G_ema": G_ema, "opt_G": opt_G, "opt_D": opt_D}
    done, seconds, history, frames = 0, 0.0, {}, []
    if args.resume:
        done, seconds, history, frames = load_checkpoint(parts, files, args, out)

    for epoch in range(done + 1, args.epochs + 1):
        start = time.perf_counter()
        torch.manual_seed(1000 * args.seed + epoch)  # so that a resumed run draws the same numbers
        totals = torch.zeros(5, device=x.device)
        order = torch.randperm(epoch_size(len(x), args.limit), device=x.device) % len(x)
        # Drop a short last batch: its BatchNorm statistics would be poor.
        batches = [idx for idx in order.split(args.batch_size) if len(idx) == args.batch_size]
        step = (epoch - 1) * len(batches)

        for idx in progress(batches, epoch, args.epochs):
            real = to_model(x[idx])  # (B, 3, 64, 64)
            if not args.digits:  # a mirrored painting is a painting, a mirrored 7 is no digit
                mirror = torch.rand(len(real), 1, 1, 1, device=x.device) < 0.5
                real = torch.where(mirror, real.flip(3), real)
            z = torch.randn(len(real), args.latent_dim, 1, 1, device=x.device)
            totals += train_step(G, D, opt_G, opt_D, real, z)

            # The average begins as the plain mean of all steps. With --average 0.995 it forgets
            # what is older than about 1 / (1 - 0.995) = 200 steps.
            step += 1
            share = max(1 - args.average, 1 / step)
            with torch.no_grad():
                for mean, weight in zip(G_ema.parameters(), G.parameters()):
                    mean.lerp_(weight, share)  # mean += share * (weight - mean)

        names = ("loss_D", "loss_G", "D_x", "D_G_z1", "D_G_z2")
        row = dict(zip(names, (totals / len(batches)).tolist()))
        seconds += time.perf_counter() - start
        if not math.isfinite(row["loss_D"] + row["loss_G"]):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")

        # G_ema averages weights only. update_bn runs it, in training mode, on z to measure
        # BatchNorm's statistics.
        update_bn(z_fixed[:256].split(64), G_ema)
        samples = generate(G_ema, z_fixed)
        row |= score(samples[: len(reference["features"])], reference)
        row["D_held_out"] = mean_D(D, held_out, args.batch_size)
        for name, value in row.items():
            history.setdefault(name, []).append(value)
        frames.append((255 * samples[:8]).byte().cpu())
        rows = samples[:64].split(8)
        heading = f"{title}, epoch {epoch}: samples"
        plot_images(out / "dcgan_samples.png", rows, heading, replace=epoch > done + 1)
        print(f"[{epoch:3d}/{args.epochs}] Loss_D: {row['loss_D']:.3f}  Loss_G: {row['loss_G']:.3f}"
              f"  D(x): {row['D_x']:.3f}  D(G(z)): {row['D_G_z1']:.3f}/{row['D_G_z2']:.3f}"
              f"  D(held-out): {row['D_held_out']:.3f}  SWD: {row['swd']:.0f}"
              f"  repetition: {row['repetition']:.1%}  coverage: {row['coverage']:.0%}", flush=True)

        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"args": vars(args), "files": files, "epoch": epoch}
        state |= {"seconds": seconds, "history": history, "frames": frames}
        save_weights(state, out / "dcgan.pt")
    return G_ema, history, frames, seconds


def load_checkpoint(parts, files, args, out):
    """Load the parts from OUT/dcgan.pt. Returns its epoch, seconds, history and frames.

    SystemExit if it cannot be read, or is of other files, arguments or networks.
    """
    path = out / "dcgan.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, epoch = state["args"], state["epoch"]
    except Exception as error:  # there is none, it is damaged, or of another program
        reason = (str(error) or repr(error)).splitlines()[0]
        raise SystemExit(f"error: --resume: {path} cannot be read: {reason}")
    for name, value in vars(args).items():
        if saved.get(name) != value and name not in ("resume", "device", "data", "out", "epochs"):
            raise SystemExit(f"error: --resume: {path} has {name} {saved.get(name)}, not {value}")
    if state.get("files") != files:
        raise SystemExit(f"error: --resume: {path} is of other images than --data {args.data}")
    if epoch > args.epochs:
        raise SystemExit(f"error: --resume: {path} already has {epoch} epochs")
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception:  # PyTorch's message lists every key
        raise SystemExit(f"error: --resume: {path} is of other networks than this dcgan.py makes")
    return epoch, state["seconds"], state["history"], state["frames"]


def keep_unfinished(path, epochs):
    """SystemExit if a new run of `epochs` would overwrite an unfinished or longer one at `path`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        done, planned = state["epoch"], state["args"]["epochs"]
    except Exception:  # nothing is there that could be continued
        return
    if done < planned or done > epochs:
        way = "Go on with --resume and the same flags, or choose" if done < planned else "Choose"
        raise SystemExit(f"error: {path} is of {done} epochs of {planned}. {way} another --out, "
                         "or delete it")


def epoch_size(n, limit):
    """Images in an epoch. Few images, n < 2000, are used several times, unless --limit cut them."""
    return n * math.ceil(2000 / n) if n < limit else n


# ---------------------------------------------------- evaluate
def to_unit(images):
    """uint8 (N, 3, 64, 64), or digits (N, 1, 28, 28) to enlarge -> (N, 3, 64, 64) in [0, 1]"""
    if images.shape[-1] != 64:
        images = F.interpolate(images.float(), size=64, mode="bilinear").expand(-1, 3, -1, -1)
    return images / 255


def to_model(images):
    """As to_unit, but in [-1, 1], the range of G's tanh."""
    return 2 * to_unit(images) - 1


@torch.no_grad()
def generate(G_ema, z):
    """z (N, latent_dim, 1, 1) -> images (N, 3, 64, 64) in [0, 1]; BatchNorm in its eval mode"""
    G_ema.eval()
    return torch.cat([G_ema(batch) for batch in z.split(64)]) / 2 + 0.5


def detail(x):
    """Images (N, 3, s, s) minus a copy that was halved and enlarged again: what a blur removes."""
    return x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")


def sorted_patches(x):
    """Side-by-side 7 x 7 patches of images (N, 3, 64, 64), projected, sorted: 3 tensors (64, n)

    A convolution with a random kernel projects each patch onto a random direction. There are three
    scales: detail, detail at half size, and the image at a quarter.
    """
    g = torch.Generator().manual_seed(0)
    kernels = F.normalize(torch.randn(64, 3, 7, 7, generator=g), dim=(1, 2, 3)).to(x.device)

    scales = []
    for factor in (1, 2, 4):
        level = F.avg_pool2d(x, factor)
        level = detail(level) if factor < 4 else level
        projections = F.conv2d(level, kernels, stride=7).transpose(0, 1)  # (64, N, rows, columns)
        scales.append(projections.flatten(1).sort(1).values)
    return scales


def sliced_wasserstein(fake, real):
    """Sliced Wasserstein distance (SWD) between the sorted patches of two sets of N images.

    The Wasserstein distance of two sets of n numbers is their mean distance after sorting both.
    Averaged over 64 directions and three scales [after Karras et al. 2018]. In thousandths of the
    real projections' standard deviation.
    """
    distances = [(a - b).abs().mean() / b.std() for a, b in zip(fake, real)]
    return 1000 * torch.stack(distances).mean().item()


def repetition(x):
    """The share of detail that all images (N, 3, 64, 64) have in common, at the same place.

    1 if all images are the same (mode collapse), about 1 / N if they have nothing in common.
    """
    x = detail(x)
    return (x.mean(0).square().mean() / x.square().mean()).item()


@torch.no_grad()
def random_features(x):
    """Images (N, 3, 64, 64) in [0, 1] -> (N, 512 * 3 * 3), from an untrained network.

    Images with similar edges and colours get similar features even from random convolutions. Naeem
    et al. 2020 advise this for images unlike photographs.
    """
    with torch.random.fork_rng(devices=[]):  # leaves all other random numbers as they are
        torch.default_generator.manual_seed(0)  # the same network in every run
        network = squeezenet1_1(weights=None).features.to(x.device)
    if x.device.type == "cpu":
        network.to(memory_format=torch.channels_last)  # faster there; not tried elsewhere
    return torch.cat([network(2 * batch - 1).flatten(1) for batch in x.split(128)])


def coverage(fake, real):
    """Share of real images with a fake nearby, in features (N, d): are all kinds there?

    Nearby means: not farther away than the fifth nearest other real image [Naeem et al. 2020,
    arXiv 2002.09797].
    """
    radius = torch.cdist(real, real).topk(6, largest=False).values[:, -1]  # the nearest is itself
    return (torch.cdist(real, fake).amin(1) <= radius).float().mean().item()


def describe(x):
    """What SWD and coverage compare, of images (N, 3, 64, 64)."""
    return {"patches": sorted_patches(x), "features": random_features(x)}


def score(fake, reference):
    """The three measures of images fake (N, 3, 64, 64); reference describes as many real ones."""
    description = describe(fake)
    return {
        "swd": sliced_wasserstein(description["patches"], reference["patches"]),
        "repetition": repetition(fake),
        "coverage": coverage(description["features"], reference["features"]),
    }


def nearest(images, x):
    """Distance, in random features, of each image to the nearest of x, and the index of that one.

    Images (n, 3, 64, 64) in [0, 1], x (N, ...) uint8 -> (n,), (n,)
    """
    features = random_features(images)
    columns = [torch.cdist(features, random_features(to_unit(part))) for part in x.split(2048)]
    return torch.cat(columns, 1).min(1)


@torch.no_grad()
def mean_D(D, x, batch_size):
    """The mean of D(x) over images x uint8, in full batches.

    D's BatchNorm takes its statistics from the batch, so D(x) also depends on the rest of it.
    """
    size = min(batch_size, len(x))
    batches = [batch for batch in x.split(size) if len(batch) == size]
    return torch.stack([D(to_model(batch)).sigmoid().mean() for batch in batches]).mean().item()


# ----------------------------------------------------- figures
# A rule of thumb for the means of an epoch. Good runs leave the ranges, too: README, part 4.
HEALTHY = {"Loss_D": (0.3, 0.8), "D(x)": (0.5, 0.9), "D(G(z))": (0.1, 0.5)}


def draw_curves(history, real, title, out):
    """Losses and D's outputs, with the healthy ranges shaded; and the measures of the samples."""
    panels = {
        "Loss_D": {"Loss_D": history["loss_D"], "D says 1/2": 2 * math.log(2)},
        "Loss_G": {"Loss_G": history["loss_G"], "D says 1/2": math.log(2)},
        "D(x)": {"training images": history["D_x"], "held-out": history["D_held_out"]},
        "D(G(z))": {"in D's step": history["D_G_z1"], "in G's step": history["D_G_z2"]},
    }
    heading = f"{title}; shaded: the healthy ranges"
    plot_curves(out / "dcgan_curves.png", panels, heading, HEALTHY)

    panels = {"SWD": {"generated": history["swd"], "real": real["swd"]}}
    for name in ("repetition", "coverage"):
        percent = [100 * share for share in history[name]]
        panels[f"{name} (%)"] = {"generated": percent, "real": 100 * real[name]}
    plot_curves(out / "dcgan_measures.png", panels, f"{title}: compared with real images")


def draw_progression(frames, title, out):
    """The same eight z as training goes on: some epochs as rows, up to 50 as an animation."""
    last = len(frames)
    epochs = [e for e in (1, 5, 10, 20, 40, 60, 80, 100) if e < last] + [last]
    rows = [frames[e - 1] / 255 for e in epochs]
    labels = [f"epoch {e}" for e in epochs]
    plot_images(out / "dcgan_progression.png", rows, f"{title}: the same noise", labels)

    pictures = []
    every = math.ceil(last / 50)  # at most 50 pictures, for a small file
    for e in range(last, 0, -every)[::-1]:
        grid = F.pad(make_grid(frames[e - 1], nrow=4), (0, 0, 16, 0))  # room for the epoch
        pictures.append(to_pil_image(grid))
        ImageDraw.Draw(pictures[-1]).text((4, 2), f"epoch {e}", fill="white")
    path = out / "dcgan_progression.gif"
    with writing(path) as part:
        first, *others = pictures
        first.save(part, "GIF", save_all=True, append_images=others, duration=200, loop=0)


def draw_nearest(fake, neighbour, distance, title, out):
    """The ten fakes (n, 3, 64, 64) nearest to a training image, and that image."""
    top = distance.argsort()[:10]
    rows, labels = [fake[top], neighbour[top]], ["generated", "nearest real"]
    notes = [f"{d:.1f}" for d in distance[top]]
    plot_images(out / "dcgan_nearest.png", rows, f"{title}: smallest distances", labels, notes)


def draw_walk(G_ema, z, title, out):
    """From z[i] to z[i + 6], by cos t z[i] + sin t z[i + 6].

    Since cos^2 + sin^2 = 1, each point on it is again a draw from N(0, I).
    """
    t = torch.linspace(0, math.pi / 2, 10, device=z.device).view(10, 1, 1, 1)
    rows = [generate(G_ema, t.cos() * a + t.sin() * b) for a, b in zip(z[:6], z[6:12])]
    plot_images(out / "dcgan_walk.png", rows, f"{title}: walks through the space of z")


# -------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    # Data
    p.add_argument("--data", type=expanduser, default="data/abstract_art",
                   help="a folder of images; with --digits that of MNIST, by default data")
    p.add_argument("--synthetic", action="store_true", help="drawn images, no download")
    p.add_argument("--limit", type=int, default=60_000, help="train on at most this many images")
    p.add_argument("--digits", action="store_true", help="MNIST instead of paintings")
    # Model
    p.add_argument("--latent-dim", type=int, default=100, metavar="K", help="dimensions of z")
    p.add_argument("--width", type=int, default=64, help="channels of the 32 x 32 layers")
    # Training
    p.add_argument("--epochs", type=int, default=100, help="passes over the images")
    p.add_argument("--batch-size", type=int, default=16, help="real images in a step")
    p.add_argument("--lr", type=float, default=2e-4, help="learning rate of G; D's is half")
    p.add_argument("--average", type=float, default=0.995, help="decay of G's moving average")
    p.add_argument("--seed", type=int, default=0, help="of weights, order and noise")
    p.add_argument("--device", type=device, default="auto",
                   help="cpu, cuda, mps, ...; auto: a GPU, if any")
    p.add_argument("--bf16", action="store_true",
                   help="bfloat16, faster on GPUs from Ampere on and CPUs with AVX512-BF16 or AMX")
    p.add_argument("--resume", action="store_true", help="continue the run in --out")
    # Output
    p.add_argument("--out", type=expanduser, default="figures", help="folder for the results")

    notebook = "__file__" not in globals() or "kernel_launcher" in sys.argv[0]
    if argv is None and notebook:  # sys.argv is the kernel's
        argv = []
    args, unknown = p.parse_known_args(argv)
    if unknown:  # thousands, with --data *.jpg
        p.error(f"unrecognized arguments: {' '.join(unknown):.60}")
    if min(args.limit, args.latent_dim, args.width, args.epochs, args.batch_size) < 1:
        p.error("sizes, --limit and --epochs must be above 0")
    if not args.lr > 0 or not 0 <= args.average < 1:
        p.error("--lr must be above 0, --average from 0 to below 1")
    if not 0 <= args.seed < 2**32:
        p.error("--seed must be from 0 to 4294967295")
    if args.digits and args.data == p.get_default("data"):
        args.data = "data"
    return args


def load_images(args):
    """Name of the set, training images x (N, ...), held-out ones, uint8, what identifies them."""
    if args.digits:
        name, x, _, held_out, _ = load_digits(args.data, args.synthetic)
        x, held_out = ((255 * part).round().byte().view(-1, 1, 28, 28) for part in (x, held_out))
        files = []
    else:  # a tenth is held out, the same for every seed
        wanted = args.limit + args.limit // 9
        name, images, files = load_paintings(args.data, args.synthetic, wanted)
        held_out, x = images.tensor_split([len(images) // 10])
    x, held_out = x[: args.limit].to(args.device), held_out[:1024].to(args.device)
    least = max(args.batch_size, 16)
    if len(x) < least:
        raise SystemExit(f"error: {len(x)} training images are too few; {least} are needed, and a "
                         "tenth of all images is held out")
    return name, x, held_out, files or [name, f"{len(x)} images"]


def report(final, seconds, args, out):
    print(f"{'':14}{'generated':>12}{'real':>12}")
    print(f"{'SWD':14}{final['swd']:12.1f}{final['swd_real']:12.1f}")
    for name in ("repetition", "coverage"):
        print(f"{name:14}{final[name]:12.1%}{final[f'{name}_real']:12.1%}")
    print("Distance to the nearest training image, 5% quantile, generated / held-out: "
          f"{final['nearest_ratio']:.2f}")
    print(f"D(x) at the end: {final['D_trained']:.2f} for images that it was trained on, "
          f"{final['D_held_out']:.2f} for held-out ones")
    print(f"torch {torch.__version__}, {args.device}, {seconds:.0f} s of training; "
          f"see {str(out)!a}")


def main(argv=None):
    """Train, measure, draw. Returns the metrics, as written to dcgan_metrics.json."""
    args = parse_args(argv)
    torch.manual_seed(args.seed)

    # Data
    name, x, held_out, files = load_images(args)
    # Samples are compared with `some`. The column "real" compares `others` with `some`.
    n = min(1024, len(x) // 2)
    some, others = to_unit(x[: 2 * n]).split(n)
    reference = describe(some)
    out = output_folder(args.out, name)
    title = f"DCGAN, {name}"
    if not args.resume:
        keep_unfinished(out / "dcgan.pt", args.epochs)
        plot_images(out / "dcgan_data.png", others[:64].split(8), f"{name}: real images")

    # Train
    G = make_generator(args.width, args.latent_dim).to(args.device)
    D = make_discriminator(args.width).to(args.device)
    G.bf16 = D.bf16 = args.bf16
    parameters_G, parameters_D = (sum(p.numel() for p in net.parameters()) for net in (G, D))
    print(f"{name}: {len(x):,} training and {len(held_out):,} held-out images, on {args.device}; "
          f"parameters: G {parameters_G:,}, D {parameters_D:,}")
    z_fixed = torch.randn(1024, args.latent_dim, 1, 1).to(args.device)
    G_ema, history, frames, seconds = train(
        G, D, x, held_out, reference, files, z_fixed, args, title, out)

    # Measure
    real = score(others, reference)
    fake = generate(G_ema, z_fixed)[:n]
    # Copies would be nearer to training images than held-out images are: a ratio far below 1. The
    # 5% quantile falls if one in twenty is a copy.
    seen = x if args.digits else torch.cat([x, x.flip(3)])
    of_fake, neighbour = nearest(fake, seen)
    of_held_out, _ = nearest(to_unit(held_out[:n]), seen)
    ratio = of_fake.quantile(0.05) / of_held_out.quantile(0.05)
    final = {key: values[-1] for key, values in history.items()}
    final |= {f"{key}_real": value for key, value in real.items()}
    final |= {
        "nearest_ratio": ratio.item(),
        "D_trained": mean_D(D, x[: len(held_out)], args.batch_size),
        "parameters_G": parameters_G, "parameters_D": parameters_D,
    }
    metrics = save_metrics(out / "dcgan_metrics.json", args, name, seconds, history, final)

    # Draw
    title = f"{title}, epoch {args.epochs}"
    draw_curves(history, real, title, out)
    draw_progression(frames, title, out)
    k = min(4, n // 8)
    rows = [*others[: 8 * k].split(8), *fake[: 8 * k].split(8)]
    labels = k * ["real"] + k * ["generated"]
    plot_images(out / "dcgan_real_vs_generated.png", rows, title, labels)
    draw_walk(G_ema, z_fixed, title, out)
    draw_nearest(fake, to_unit(seen[neighbour]), of_fake, title, out)

    report(final, seconds, args, out)
    report_unwritten()
    return metrics


if __name__ == "__main__":
    main()
