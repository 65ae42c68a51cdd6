"""DCGAN: a generator G learns to paint from a discriminator D that learns to tell its images
from real ones.

G(z) is the image that G makes of random numbers z, D(x) the probability of being real that D
gives an image x. They play the game

    min_G max_D  E_x[ log D(x) ] + E_z[ log(1 - D(G(z))) ],  z ~ N(0, I)
                                                         [Goodfellow et al. 2014, arXiv 1406.2661]

with convolutional networks [Radford et al. 2016, arXiv 1511.06434]. While D wins, D(G(z)) is
near 0, and there log(1 - D(G(z))) is flat in D's logit: G would learn nothing. So G minimises
-log D(G(z)), which falls in the same direction, and is steep there. Were G perfect, D could
only answer 1/2: Loss_D would be -log 1/2 - log 1/2 = 1.39 and Loss_G 0.69.

Not in that paper: turned images, batches of 16 instead of 128, Adam without momentum, and a
moving average of G's weights. They are for a set of few images, and explained where they stand.

    python dcgan.py

    [ 30/30] Loss_D: 0.847  Loss_G: 3.327  D(x): 0.738  D(G(z)): 0.261/0.141  ...
                                   generated        real
    swd                              177.395      19.837
    repetition                         0.035       0.005
    precision                          0.890       0.873
    coverage                           0.878       0.967
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from common import load_paintings, plot_curves, plot_images, progress


# ------------------------------------------------------- model
def make_generator(width=64, latent_dim=100):
    """z (B, latent_dim, 1, 1) -> images (B, 3, 64, 64) in [-1, 1]

    A transposed convolution adds a stamp of 4 x 4 to its output for each input pixel, the
    stride apart. 4 is a multiple of the stride: other stamps overlap unevenly, which paints
    a checkerboard [Odena et al. 2016]. Sizes beside the layers are those for width 64.
    """
    # Stamp, stride and padding 4, 1, 0 make 4 x 4 of one pixel; 4, 2, 1 double each side.
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
    """Images (B, 3, 64, 64) in [-1, 1] -> logits l (B,), with D(x) = sigmoid(l) = 1 / (1 + e^-l)

    BatchNorm takes the statistics of the batch that D judges, all real or all fake, so
    D(x) depends on the rest of the batch, too; it keeps none, as D is of use in training only.
    """
    return nn.Sequential(
        # The first padding is black, -1. With zeros there, a batch of half the contrast would
        # halve the output of each layer, and BatchNorm undo it: D would not see contrast.
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
        nn.Flatten(0),
    ).apply(initialise)


def initialise(layer):
    """Weights from N(0, 0.02^2) [Radford et al. 2016], BatchNorm's scales from N(1, 0.02^2)."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, 0.02)


# ------------------------------------------------- augmentation
def turn(x, how):
    """Put each of images x (B, 3, S, S) into one of a square's eight positions, at random.

    how: "turn", or "mirror", which only swaps left and right, or "none".
    """
    def half():
        return torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5

    if how != "none":
        x = torch.where(half(), x.flip(3), x)  # left and right
    if how == "turn":
        x = torch.where(half(), x.flip(2), x)  # top and bottom
        x = torch.where(half(), x.transpose(2, 3), x)  # rows and columns
    return x


# ------------------------------------------------------- train
def mixed_precision(device):
    """A context: bfloat16 if the hardware computes in it; elsewhere it is emulated, and slow."""
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.10
        fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def train_epoch(G, D, G_ema, opt_G, opt_D, x, args, label):
    """One pass over x (N, 3, 64, 64) uint8. Returns the means of the losses and of D's sigmoids."""
    totals = torch.zeros(5, device=x.device)
    autocast = mixed_precision(x.device)
    whole = len(x) - len(x) % args.batch_size  # no small last batch: poor BatchNorm statistics
    batches = torch.randperm(len(x), device=x.device)[:whole].split(args.batch_size)

    for idx in progress(batches, label):
        # Turned, the images are eight times as many, and G learns to paint in all positions. Its
        # fakes are not turned: that would hide from D a mark that all have at one place.
        real = turn(x[idx] / 127.5 - 1, args.augment)  # (B, 3, 64, 64) in [-1, 1], as tanh's
        z = torch.randn(len(idx), args.latent_dim, 1, 1, device=x.device)

        # Step of D: minimise -log D(x) - log(1 - D(G(z))). With softplus(t) = log(1 + e^t)
        # -log D = softplus(-logit), -log(1 - D) = softplus(logit).
        with autocast:
            fake = G(z)
            logit_real = D(real).float()
            logit_fake = D(fake.detach()).float()  # no gradient for G
        loss_D = F.softplus(-logit_real).mean() + F.softplus(logit_fake).mean()
        opt_D.zero_grad()
        loss_D.backward()
        opt_D.step()

        # Step of G: minimise -log D(G(z)), for the same z.
        with autocast:
            logit = D(fake).float()
        loss_G = F.softplus(-logit).mean()
        opt_G.zero_grad()
        loss_G.backward(inputs=list(G.parameters()))  # through D, but stored for G alone
        opt_G.step()
        # What paints later is an exponential moving average of G's weights, over about
        # 1 / (1 - 0.995) = 200 steps: G circles around it, as D reacts to G and G to D.
        G_ema.update_parameters(G)

        # D(G(z)) of the same z is measured twice: z1 before D's step, z2 after it.
        outputs = [logits.sigmoid().mean() for logits in (logit_real, logit_fake, logit)]
        totals += torch.stack([loss_D, loss_G, *outputs]).detach()
    names = ("loss_D", "loss_G", "D_x", "D_G_z1", "D_G_z2")
    return dict(zip(names, (totals / len(batches)).tolist()))


def train(G, D, G_ema, x, real_images, z_test, args, checkpoint):
    """Train on x (N, 3, 64, 64) uint8, and compare with real images after each epoch.

    Returns {name: [one value per epoch]}, {epoch: images of z_test} and the
    seconds it took.
    """
    # Each step of one player changes the slope for the other. So no momentum (Radford et al.:
    # beta1 = 0.5), which would go on along earlier slopes; beta2 = 0.99 averages squared slopes
    # over fewer steps than the usual 0.999   [as Karras et al. 2018].
    opt_G = torch.optim.Adam(G.parameters(), lr=args.lr, betas=(0.0, 0.99), fused=True)
    opt_D = torch.optim.Adam(D.parameters(), lr=args.lr, betas=(0.0, 0.99), fused=True)
    parts = {"G": G, "D": D, "G_ema": G_ema, "opt_G": opt_G, "opt_D": opt_D}
    state = {"args": vars(args), "epoch": 0, "seconds": 0.0, "history": {}, "progression": {}}
    if args.resume:
        state = load_checkpoint(checkpoint, args)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    history, progression = state["history"], state["progression"]

    for epoch in range(state["epoch"] + 1, args.epochs + 1):
        start = time.time()
        torch.manual_seed(1000 * args.seed + epoch)  # a resumed run draws what an unbroken one does
        label = f"Epoch {epoch}/{args.epochs}"
        row = train_epoch(G, D, G_ema, opt_G, opt_D, x, args, label)
        state["seconds"] += time.time() - start
        if not math.isfinite(row["loss_D"] + row["loss_G"]):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")

        # G_ema is a mean of weights alone: its BatchNorm statistics are measured anew.
        update_bn(z_test.split(64), G_ema)
        fake = generate(G_ema, z_test)
        row |= compare(fake, real_images)
        for name, value in row.items():
            history.setdefault(name, []).append(value)
        if epoch in (1, args.epochs) or epoch % 3 == 0:
            progression[epoch] = (255 * fake[:18]).byte().cpu()
        print(f"[{epoch:3d}/{args.epochs}] Loss_D: {row['loss_D']:.3f}  Loss_G: {row['loss_G']:.3f}"
              f"  D(x): {row['D_x']:.3f}  D(G(z)): {row['D_G_z1']:.3f}/{row['D_G_z2']:.3f}"
              f"  SWD: {row['swd']:.0f}  repetition: {row['repetition']:.2f}"
              f"  coverage: {row['coverage']:.2f}", flush=True)
        if epoch > args.epochs / 10 and (row["coverage"] < 0.25 or row["repetition"] > 0.5):
            print("warning: the samples are poor or alike; more epochs or images help")

        state["epoch"] = epoch
        for name, part in parts.items():
            state[name] = part.state_dict()
        torch.save(state, f"{checkpoint}.tmp")
        os.replace(f"{checkpoint}.tmp", checkpoint)  # whole or not at all
    return history, progression, state["seconds"]


def load_checkpoint(path, args):
    """What train saved. SystemExit if there is nothing, or if the run had other arguments.

    More epochs are welcome: the learning rate is constant, so a run can go on at any time.
    """
    if not path.exists():
        raise SystemExit(f"error: --resume: there is no {path}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in vars(args).items():
        was = state["args"].get(name)
        if was != value and name not in ("resume", "device", "out", "epochs"):
            raise SystemExit(f"error: --resume: {path} is of a run with {name} {was}, not {value}")
    if state["epoch"] > args.epochs:
        raise SystemExit(f"error: --resume: {path} has {state['epoch']} epochs, more than --epochs")
    return state


# ---------------------------------------------------- evaluate
@torch.no_grad()
def generate(G_ema, z):
    """z (N, latent_dim, 1, 1) -> images (N, 3, 64, 64) in [0, 1]; BatchNorm in its eval mode"""
    G_ema.eval()
    return torch.cat([G_ema(batch) for batch in z.split(256)]) / 2 + 0.5


def laplacian_pyramid(x):
    """Split images (N, 3, 64, 64) into detail at 64 pixels, at 32, and the rest at 16.

    Three tensors (N, 3, side, side)   [after Burt & Adelson 1983].
    """
    half, quarter = F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)
    fine = x - F.interpolate(half, size=64, mode="bilinear")
    middle = half - F.interpolate(quarter, size=32, mode="bilinear")
    return fine, middle, quarter


def random_patches(level, n=16):
    """n 7x7 patches of each of N images, at the same random places in each call. (n N, 3, 49)"""
    g = torch.Generator().manual_seed(0)
    i, j = torch.randint(level.shape[3] - 6, (2, len(level), n), generator=g)
    windows = level.unfold(2, 7, 1).unfold(3, 7, 1)  # (N, 3, side - 6, side - 6, 7, 7), a view
    patches = windows[torch.arange(len(level))[:, None], :, i, j]  # (N, n, 3, 7, 7): indices first
    return patches.flatten(0, 1).flatten(2)


def sliced_wasserstein(fake, real, directions=128):
    """How far are the textures of images fake from those of as many real, (N, 3, 64, 64) each?

    Project all patches onto a random direction, sort the projections of each set, and pair
    them: the mean absolute difference is the distance. It is averaged over directions and over
    three scales, in standard deviations of the real patches' colours, times 1000
    [after Karras et al. 2018, arXiv 1710.10196].
    """
    g = torch.Generator().manual_seed(0)
    v = torch.randn(3 * 7 * 7, directions, generator=g).to(real.device)
    v = v / v.norm(dim=0)
    distances = []
    for a, b in zip(laplacian_pyramid(fake), laplacian_pyramid(real)):
        a, b = random_patches(a), random_patches(b)  # (n N, 3, 49)
        std = b.std((0, 2), keepdim=True)
        a, b = (((p / std).flatten(1) @ v).sort(0).values for p in (a, b))  # (n N, directions)
        distances.append(1000 * (a - b).abs().mean().item())
    return sum(distances) / 3


def repetition(x):
    """Share of the detail of images (N, 3, 64, 64) that is the same, at the same place, in all.

    The energy of the mean image's detail over the mean energy of detail: 1 for copies, about
    1 / N for unrelated images. The sliced Wasserstein distance ignores where a patch was, and
    misses a mark that all images have in one place.
    """
    fine, middle, _ = laplacian_pyramid(x)
    shares = [level.mean(0).square().mean() / level.square().mean() for level in (fine, middle)]
    return sum(shares).item() / 2


@torch.no_grad()
def random_features(x):
    """Images (N, 3, 64, 64) in [0, 1] -> (N, 512 * 3 * 3), by a network that was never trained.

    Images alike in edges and colours get features near to each other, also from random
    convolutions. Trained ones favour what tells ImageNet's classes apart: for other images
    Naeem et al. 2020 advise random ones.
    """
    with torch.random.fork_rng(devices=[]):  # what is drawn later stays the same
        torch.manual_seed(0)  # the same network for every run
        network = squeezenet1_1(weights=None).features.to(x.device)
    return torch.cat([network(2 * batch - 1).flatten(1) for batch in x.split(128)])


def precision_coverage(fake, real, neighbours=5):
    """How good and how varied are fakes, beside as many real images? Features (N, d) of both.

    A ball around each real image reaches to its fifth nearest real neighbour. Precision: the
    share of fakes in any ball [Kynkaanniemi et al. 2019, arXiv 1904.06991]. Coverage: the
    share of balls with a fake inside [Naeem et al. 2020, arXiv 2002.09797]. The mark to reach
    is that of other real images: a higher precision means that the samples are tame. Their
    coverage is about 1 - 1 / 2^5: a ball is empty if its five nearest are all of one set.
    """
    distances = torch.cdist(real, real)  # (N, N); the nearest is itself
    radius = distances.topk(neighbours + 1, largest=False).values[:, -1:]  # (N, 1)
    hit = torch.cdist(real, fake) <= radius  # (real, fake)
    return hit.any(0).float().mean().item(), hit.any(1).float().mean().item()


def compare(fake, real):
    """The four measures, for two sets of images (N, 3, 64, 64) in [0, 1]."""
    fake = fake[: len(real)]
    precision, coverage = precision_coverage(random_features(fake), random_features(real))
    return {
        "swd": sliced_wasserstein(fake, real),
        "repetition": repetition(fake),
        "precision": precision,
        "coverage": coverage,
    }


def nearest(images, x):
    """The nearest of x (M, 3, 64, 64) to each of images (N, 3, 64, 64) in its eight positions.

    Returns distances (N,) in random features, and indices (N,).
    """
    positions = [images.rot90(k, (2, 3)) for k in range(4)]
    positions += [position.flip(3) for position in positions]
    features = random_features(x)
    distances = [torch.cdist(random_features(position), features) for position in positions]
    distance, index = torch.stack(distances).amin(0).min(1)
    return distance, index


@torch.no_grad()
def mean_D(D, x, args):
    """The mean of D(x) over images x (N, 3, 64, 64) uint8, turned and in batches as in training."""
    batches = turn(x / 127.5 - 1, args.augment).split(args.batch_size)
    return torch.cat([D(batch).sigmoid() for batch in batches]).mean().item()


# A rule of thumb, of no known source, for the means of an epoch: inside, neither player has
# won. It says little of the samples, and a perfect G would be outside.
HEALTHY = {"loss_D": (0.3, 0.8), "D_x": (0.5, 0.9), "D_G_z1": (0.1, 0.5), "D_G_z2": (0.1, 0.5)}


def healthy_shares(history):
    """The share of epochs in which each mean is in its healthy range, and in which all are."""
    inside = {}
    for name, (low, high) in HEALTHY.items():
        inside[f"healthy_{name}"] = [low <= value <= high for value in history[name]]
    inside["healthy_fraction"] = [all(epoch) for epoch in zip(*inside.values())]
    return {name: sum(epochs) / len(epochs) for name, epochs in inside.items()}


def measure(history, reference, distance, held_out_distance):
    """The last epoch's values, those of other real images, and whether samples are copies.

    reference is compare(other real images, real images). distance (N,) is that of
    each sample from the training images, held_out_distance (M,) that of held-out ones.
    """
    final = {name: values[-1] for name, values in history.items()} | healthy_shares(history)
    final |= {f"real_{name}": value for name, value in reference.items()}
    final["swd_real"] = reference["swd"]  # the name that other tools read
    # Copies are nearer than held-out images are: a ratio far below 1. The mean would hide a few;
    # the 5% quantile falls if one in twenty is a copy. Smooth images are near, too: look at them.
    ratio = distance.quantile(0.05) / held_out_distance.quantile(0.05)
    final["nearest_ratio"] = ratio.item()
    return final


# ----------------------------------------------------- figures
def draw_curves(history, reference, title, out):
    """The game, with the healthy ranges shaded; and what the samples are worth."""
    panels = {
        "Loss_D": {"Loss_D": history["loss_D"], "D cannot tell": 2 * math.log(2)},
        "Loss_G": {"Loss_G": history["loss_G"], "D cannot tell": math.log(2)},
        "D(x)": {"in D's step": history["D_x"]},
        "D(G(z))": {"in D's step": history["D_G_z1"], "in G's step": history["D_G_z2"]},
    }
    bands = {"Loss_D": HEALTHY["loss_D"], "D(x)": HEALTHY["D_x"], "D(G(z))": HEALTHY["D_G_z1"]}
    plot_curves(out / "dcgan_curves.png", panels, f"{title}; shaded: the healthy range", bands)

    panels = {}
    for name, value in reference.items():
        label = "SWD x 1000" if name == "swd" else name
        panels[label] = {"generated": history[name], "real": value}
    plot_curves(out / "dcgan_measures.png", panels, f"{title}: beside real images")


def draw_progression(progression, title, out):
    """The same noise as training goes on, as rows of a figure and as an animation."""
    epochs = list(progression)
    step = max(1, math.ceil((len(epochs) - 1) / 5))
    shown = sorted({*epochs[::step], epochs[-1]})
    rows = [progression[epoch][:8] / 255 for epoch in shown]
    labels = [f"epoch {epoch}" for epoch in shown]
    plot_images(out / "dcgan_progression.png", rows, f"{title}: the same noise", labels)

    frames = [to_pil_image(make_grid(images, nrow=6)) for images in progression.values()]
    path = out / "dcgan_progression.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=400, loop=0)


def draw_nearest(fake, neighbour, distance, title, out):
    """The ten fakes (N, 3, 64, 64) nearest to a training image, and that image."""
    top = distance.argsort()[:10]
    rows, labels = [fake[top], neighbour[top]], ["generated", "nearest real"]
    notes = [f"{d:.1f}" for d in distance[top]]
    plot_images(out / "dcgan_nearest.png", rows, f"{title}: least distances", labels, notes)


def draw_walk(G_ema, z, title, out):
    """From z[i] to z[i + 6] on a quarter of an ellipse: each point on it is again a draw from
    N(0, I), while those between on a straight line would be too near to 0."""
    t = torch.linspace(0, math.pi / 2, 10, device=z.device).view(10, 1, 1, 1)
    rows = [generate(G_ema, t.cos() * a + t.sin() * b) for a, b in zip(z[:6], z[6:12])]
    plot_images(out / "dcgan_walk.png", rows, f"{title}: walks through the space of z")


# -------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument_group("data").add_argument
    add("--data", default="data/abstract_art", metavar="DIR", help="a folder of images")
    add("--synthetic", action="store_true", help="drawn paintings, no download")
    add("--limit", type=int, default=60_000, help="training images at most")

    add = p.add_argument_group("model").add_argument
    add("--latent-dim", type=int, default=100, metavar="K", help="dimensions of z")
    add("--width", type=int, default=64, help="channels; 32 is for a quick try")

    add = p.add_argument_group("training").add_argument
    add("--epochs", type=int, default=30, help="passes over the training images")
    add("--batch-size", type=int, default=16, help="real images in a step; few, for many steps")
    add("--lr", type=float, default=2e-4, help="learning rate of D and of G")
    ways = ("turn", "mirror", "none")
    add("--augment", default="turn", choices=ways, help="mirror: for images with an up and a down")
    add("--average", type=float, default=0.995, help="share of G's average that each step keeps")
    add("--seed", type=int, default=0, help="of weights, order and noise")
    devices = ("auto", "cpu", "cuda", "mps")
    add("--device", default="auto", choices=devices, help="auto: a GPU, if any")
    add("--resume", action="store_true", help="go on with an earlier run")

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
    # An epoch goes through a small folder several times; not through what --limit leaves.
    passes = math.ceil(2000 / len(x))
    x = x[: args.limit]
    least = max(args.batch_size, 16)
    if len(x) < least:
        raise SystemExit(f"error: {len(x)} training images are too few; {least} are needed")
    n = min(1024, len(x) // 2)  # how many images a comparison takes
    # Both of training images, which are many and which G is to match. Copies are looked for
    # with the held-out ones.
    real_images, other_real = x[:n].float() / 255, x[n : 2 * n].float() / 255

    # Paintings are drawn if asked, and if the download fails. They get a folder of their own.
    out = Path(args.out, "synthetic") if name.startswith("drawn") else Path(args.out)
    checkpoint = Path("checkpoints", out.name, "dcgan.pt")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    plot_images(out / "dcgan_data.png", real_images[:64].split(8), f"{name}: real images")
    # D sees real images turned, so G learns to make turned ones: measure it by such.
    real_images, other_real = turn(real_images, args.augment), turn(other_real, args.augment)

    # channels_last is faster, but on MPS torch 2.6 computes wrong gradients in it.
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
    history, progression, seconds = train(
        G, D, G_ema, x.repeat(passes, 1, 1, 1), real_images, z_test, args, checkpoint
    )

    fake, paintings = generate(G_ema, z_test), x.float() / 255
    distance, index = nearest(fake[:n], paintings)
    held_out_distance, _ = nearest(held_out[:n].float() / 255, paintings)
    reference = compare(other_real, real_images)
    final = measure(history, reference, distance, held_out_distance)
    final |= {"parameters_G": parameters_G, "parameters_D": parameters_D}
    final["swd_untrained"] = swd_untrained
    # The first would be far above the second if D knew its training images by heart.
    final["D_trained"] = mean_D(D, x[: len(held_out)], args)
    final["D_held_out"] = mean_D(D, held_out, args)

    title = f"DCGAN, {name}, epoch {args.epochs}"
    plot_images(out / "dcgan_samples.png", fake[:64].split(8), f"{title}: samples")
    draw_curves(history, reference, title, out)
    draw_progression(progression, title, out)
    draw_walk(G_ema, z_test, title, out)
    draw_nearest(fake, paintings[index], distance, title, out)

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
