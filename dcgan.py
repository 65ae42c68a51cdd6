"""DCGAN: a generator G learns to paint because a discriminator D learns to tell its paintings from real ones.

Neither is told what a painting is. D(x) is the probability that D gives x of being real; the two play

    min_G max_D  E_x[ log D(x) ] + E_z[ log(1 - D(G(z))) ],   z ~ N(0, I)               [Goodfellow et al. 2014, arXiv 1406.2661]

with convolutional networks [Radford et al. 2016, arXiv 1511.06434]. G minimises -log D(G(z)) instead of log(1 - D(G(z))): the same
direction, but while D wins, D(G(z)) ~ 0, the second is flat, and G would learn nothing.

    python dcgan.py --epochs 100

    [100/100] Loss_D: 0.3911  Loss_G: 1.8310  D(x): 0.8255  D(G(z)): 0.1734/0.1695  SWD: 40.2  diversity: 0.96  repetition: 0.235  26.6 s  94 images/s
    SWD x 1000: 40.2 (real 20.4, untrained G 695.2); diversity 0.96; repetition 23.5% (real 0.6%)
    Nearest training image: 1.03 times as far as from held-out real images; epochs in all healthy ranges: 94%
    torch 2.15.0+cu132, cpu, 2868 s of training; figures and dcgan_metrics.json are in figures

The plain recipe of 2016 is --no-augment --logit-penalty 0 --batch-size 64 --lr 2e-4 --g-lr 2e-4 --decay 0 --average 0, and D wins with it.
The defaults change each of these: D sees all images mirrored and moved, large logits cost it something, batches are small, for more steps,
D's learning rate is half as high and G's a quarter, both fall to 0, and an average of G's weights is what paints.
"""

import argparse
import itertools
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import ImageDraw
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from common import fail, load_checkpoint, load_paintings, one_line_errors, output_dir, pick_device, plot_curves, plot_images, progress, save

HEALTHY = {"loss_D": (0.3, 0.8), "D_x": (0.5, 0.9), "D_G_z1": (0.1, 0.5), "D_G_z2": (0.1, 0.5)}  # of epoch means; a rule of thumb


# --------------------------------------------------------------------------------------------------------------- model
def make_generator(width=64, latent_dim=100):
    """z (B, latent_dim, 1, 1) -> image (B, 3, 64, 64) in [-1, 1]. A transposed convolution with stride 2 doubles the side.

    4x4 kernels: a multiple of the stride, else the kernels' overlap is uneven and prints a checkerboard [Odena et al. 2016].
    """
    layers, channels = [], (latent_dim, 8 * width, 4 * width, 2 * width, width)            # sides 1, 4, 8, 16, 32
    for i, (n_in, n_out) in enumerate(zip(channels, channels[1:])):
        stride, padding = (2, 1) if i else (1, 0)
        layers += [nn.ConvTranspose2d(n_in, n_out, 4, stride, padding, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
    layers += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers).apply(initialise)


def make_discriminator(width=64, spectral=False):
    """Image (B, 3, 64, 64) in [-1, 1] -> logit (B,) of the probability that it is real, by the BatchNorm statistics of its batch alone."""
    layers, channels = [], (3, width, 2 * width, 4 * width, 8 * width)                     # sides 64, 32, 16, 8, 4
    for i, (n_in, n_out) in enumerate(zip(channels, channels[1:])):
        norm = [nn.BatchNorm2d(n_out, track_running_stats=False)] if i else []             # none on pixels
        layers += [nn.Conv2d(n_in, n_out, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2, inplace=True)]
    layers += [nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Flatten(0)]
    D = nn.Sequential(*layers).apply(initialise)
    for layer in D if spectral else []:
        if isinstance(layer, nn.Conv2d):
            spectral_norm(layer)       # divides the weight by its largest singular value   [Miyato et al. 2018, arXiv 1802.05957]
    return D


def initialise(layer):
    """Weights from N(0, 0.02^2), BatchNorm's scales from N(1, 0.02^2), its shifts 0   [Radford et al. 2016]"""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, 0.02)


# ---------------------------------------------------------------------------------------------------------------- loss
def augment(x):
    """Each image mirrored or not and moved by up to 8 pixels each way, black where nothing moves in: (B, 3, 64, 64) in [-1, 1].

    D sees real and generated images only like this, so it cannot learn a few thousand real ones by heart; it is differentiable, so that
    G learns through it   [Zhao et al. 2020, arXiv 2006.10738]. And black is D's yardstick for contrast: D has no biases, LeakyReLU passes
    a factor c > 0 on and BatchNorm divides by it, so that D(c x) = D(x) for a batch x. Edges of 0, which is grey, would scale with it.
    """
    theta = torch.zeros(len(x), 2, 3, device=x.device)                        # the output at (u, v) is x at theta (u, v, 1)
    theta[:, 0, 0] = 2.0 * torch.randint(2, (len(x),), device=x.device) - 1   # -1 mirrors
    theta[:, 1, 1] = 1
    theta[:, :, 2] = torch.randint(-8, 9, (len(x), 2), device=x.device) * 2 / 64   # the image is 2 wide
    return F.grid_sample(x.float() + 1, F.affine_grid(theta, x.shape, align_corners=False), mode="nearest", align_corners=False) - 1  # its fill is 0


# --------------------------------------------------------------------------------------------------------------- train
def train(G, D, averaged, x, args, checkpoint, config):
    """Train on x (N, 3, 64, 64) uint8 in place; returns {name: [one value per epoch]}, {epoch: progress images}, seconds."""
    device, z_test = x.device, fixed_noise(args, x)
    opt_G, opt_D = (torch.optim.Adam(net.parameters(), betas=(0.5, 0.999), fused=True) for net in (G, D))
    parts = {"G": G, "D": D, "averaged": averaged, "opt_G": opt_G, "opt_D": opt_D}
    history, progression, done, seconds = {}, {}, 0, 0.0
    if args.resume:
        state = load_checkpoint(checkpoint, config, parts)
        history, progression, done, seconds = (state[name] for name in ("history", "progression", "epoch", "seconds"))
        torch.set_rng_state(state["rng"])

    # bfloat16 where the hardware has it; elsewhere it is emulated, and slower. torch before 2.10 cannot tell of a CPU.
    bf16 = (torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else
            getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False))
    mixed_precision = torch.autocast("cuda" if device.type == "cuda" else "cpu", torch.bfloat16, enabled=bf16)
    batches = len(x) // args.batch_size      # the rest, too few for BatchNorm's statistics, waits for another epoch's shuffle
    for epoch in range(done + 1, args.epochs + 1):
        start, totals = time.time(), torch.zeros(5, device=device)
        for opt, lr in (opt_G, args.g_lr), (opt_D, args.lr):                  # constant at first, then in equal steps towards 0
            opt.param_groups[0]["lr"] = lr * min(1, (1 - (epoch - 1) / args.epochs) / max(args.decay, 1e-9))
        noise = args.instance_noise * (1 - (epoch - 1) / args.epochs)         # fades to 0   [Sonderby et al. 2017, arXiv 1610.04490]

        def judge(images):  # (B, 3, 64, 64) -> logits (B,) of what D is shown of them
            images = augment(images) if args.augment else images
            return D(images + noise * torch.randn_like(images) if noise else images).float()     # the losses in full precision

        for idx in progress(torch.randperm(len(x))[:batches * args.batch_size].split(args.batch_size), f"Epoch {epoch}/{args.epochs}"):
            real = (x[idx.to(device)] / 127.5 - 1).contiguous(memory_format=torch.channels_last)   # (B, 3, 64, 64) in [-1, 1], as tanh's
            with mixed_precision:
                # (1) D: maximise log D(x) + log(1 - D(G(z))); with D = sigmoid(logit), -log D = softplus(-logit), -log(1 - D) = softplus(logit)
                fake = G(torch.randn(len(real), args.latent_dim, 1, 1, device=device))
                logit_real, logit_fake = judge(real), judge(fake.detach())    # detach: this step is D's alone
                loss_D = F.softplus(-logit_real).mean() + F.softplus(logit_fake).mean()
                # A large logit is pulled back, so that D stays moderate even while it wins   [Tseng et al. 2021, arXiv 2104.03310, anchors at 0]
                penalty = args.logit_penalty * (logit_real.square().mean() + logit_fake.square().mean())
            opt_D.zero_grad()
            (loss_D + penalty).backward()
            opt_D.step()
            # (2) G: minimise -log D(G(z)), for the same fakes as D sees them after its step
            D.requires_grad_(False)                                           # gradients pass through D, none is made for it
            for step in range(args.g_steps):
                with mixed_precision:
                    if step:
                        fake = G(torch.randn(len(real), args.latent_dim, 1, 1, device=device))
                    logit = judge(fake)
                    loss_G = F.softplus(-logit).mean()
                opt_G.zero_grad()
                loss_G.backward()
                opt_G.step()
            D.requires_grad_(True)
            averaged.update_parameters(G)
            totals += torch.stack((loss_D, loss_G, *(l.sigmoid().mean() for l in (logit_real, logit_fake, logit)))).detach()
        row = dict(zip(("loss_D", "loss_G", "D_x", "D_G_z1", "D_G_z2"), (totals / batches).tolist()))
        if not math.isfinite(row["loss_D"] + row["loss_G"]):
            fail(f"a loss is not finite in epoch {epoch}; try a smaller --lr than {args.lr}. {checkpoint} holds the epoch before")
        took = time.time() - start
        seconds += took
        # A weight average needs BatchNorm statistics of its own; G's would be another network's.
        update_bn(z_test[:256].split(64), averaged)
        fake = generate(averaged, z_test)
        row |= compare(fake, x)
        for name, value in row.items():
            history.setdefault(name, []).append(value)
        if epoch == 1 or 20 * epoch // args.epochs > 20 * (epoch - 1) // args.epochs:
            progression[epoch] = (255 * fake[:18]).byte().cpu()
        print(f"[{epoch:3d}/{args.epochs}] Loss_D: {row['loss_D']:.4f}  Loss_G: {row['loss_G']:.4f}  D(x): {row['D_x']:.4f}  "
              f"D(G(z)): {row['D_G_z1']:.4f}/{row['D_G_z2']:.4f}  SWD: {row['swd']:.1f}  diversity: {row['diversity_ratio']:.2f}  repetition: {row['repetition']:.3f}  "
              f"{took:.1f} s  {batches * args.batch_size / took:,.0f} images/s", flush=True)
        if row["diversity_ratio"] < 0.5 <= history["diversity_ratio"][-2:][0]:
            print("Warning: the samples became less than half as different from each other as real images: G may have collapsed.")
        save({"config": config, "epoch": epoch, "history": history, "progression": progression, "seconds": seconds,
              "rng": torch.get_rng_state(), **{name: part.state_dict() for name, part in parts.items()}}, checkpoint)
    return history, progression, seconds


# ------------------------------------------------------------------------------------------------------------ evaluate
def fixed_noise(args, x):
    """The same z (n, latent_dim, 1, 1) in every epoch and on every device; n: half as many as images x, but from 128 to 1,024."""
    n = max(128, min(1024, len(x) // 2))
    return torch.randn(n, args.latent_dim, 1, 1, generator=torch.Generator().manual_seed(args.seed)).to(x.device)


@torch.no_grad()
def generate(G, z):
    """z (N, latent_dim, 1, 1) -> images (N, 3, 64, 64) in [0, 1], with the running BatchNorm statistics: one image does not depend on the others."""
    G.eval()
    images = torch.cat([G(b) for b in z.split(256)])
    G.train()
    return (images + 1) / 2


def laplacian_pyramid(x):
    """Images (N, 3, 64, 64) as a sum of three: their detail at 64 pixels, at 32, and the rest at 16: (N, 3, side, side) each   [Burt & Adelson 1983]"""
    levels = []
    for side in (64, 32):
        low = F.interpolate(x, size=side // 2, mode="bilinear", antialias=True)
        levels.append(x - F.interpolate(low, size=side, mode="bilinear"))
        x = low
    return [*levels, x]


def laplacian_patches(x, n=16):
    """n random 7x7 patches of each level of the Laplacian pyramid of images (N, 3, 64, 64): 3 tensors (n N, 3, 49)."""
    g, patches = torch.Generator().manual_seed(0), []                   # the same places for every set of images
    for level in laplacian_pyramid(x):
        i, j = torch.randint(0, level.shape[3] - 6, (2, len(x), n), generator=g).to(x.device)
        windows = level.unfold(2, 7, 1).unfold(3, 7, 1)                 # (N, 3, side - 6, side - 6, 7, 7), a view
        patches.append(windows[torch.arange(len(x), device=x.device)[:, None], :, i, j].flatten(0, 1).flatten(2))
    return patches


def sliced_wasserstein(fake, real, directions=128):
    """Sliced Wasserstein distance of two sets of images (N, 3, 64, 64), at 64, 32 and 16 pixels: a list of three, times 1000.

    Over random directions of patch space: the mean distance of the sorted projections   [Karras et al. 2018, arXiv 1710.10196]
    In standard deviations of the real set's colour channels; the paper scales each set by its own, and sees no loss of contrast.
    """
    v = torch.randn(147, directions, generator=torch.Generator().manual_seed(0)).to(real.device)
    v, distances = v / v.norm(dim=0), []
    for a, b in zip(laplacian_patches(fake), laplacian_patches(real)):
        mean, std = b.mean((0, 2), keepdim=True), b.std((0, 2), keepdim=True)
        a, b = ((((p - mean) / std).flatten(1) @ v).sort(0).values for p in (a, b))
        distances.append(1000 * (a - b).abs().mean().item())
    return distances


def repetition(x):
    """Share of the detail of images (N, 3, 64, 64) that is the same in all, at the same place: 1 for copies, 1 / N for unrelated images.

    The energy of the mean image's detail over the mean energy of the detail, at 64 and at 32 pixels. What moves is not repeated, so the
    sliced Wasserstein distance, which knows no places, is blind to it.
    """
    return sum((level.mean(0).square().mean() / level.square().mean()).item() / 2 for level in laplacian_pyramid(x)[:2])


def compare(fake, x):
    """How near are fake images (N, 3, 64, 64) in [0, 1] to real ones, x (M, 3, 64, 64) uint8, as a set?

    A dict of swd, the mean over scales, swd_64, swd_32, swd_16; diversity_ratio: the mean distance of two fakes over that of two real
    images, which goes to 0 when G paints one picture only; and repetition.
    """
    real = x[:min(len(fake), len(x) // 2)].float() / 255
    fake = fake[:len(real)]
    scales, spread = sliced_wasserstein(fake, real), [torch.cdist(images, images).sum() for images in (fake.flatten(1), real.flatten(1))]
    return {"swd": sum(scales) / 3, **{f"swd_{side}": d for side, d in zip((64, 32, 16), scales)}, "diversity_ratio": (spread[0] / spread[1]).item(),
            "repetition": repetition(fake)}


def nearest(images, x):
    """For images (N, 3, 64, 64) in [0, 1] the nearest of x (M, 3, 64, 64) uint8: distance (N,) and index (N,).

    Root mean square per pixel at 32x32, the least over x mirrored or not and moved by up to 2 pixels: no copy hides behind that.
    """
    small = lambda images: F.avg_pool2d(images, 2)
    x, images = torch.cat([small(b.float() / 255) for b in x.split(1000)]), small(images).flatten(1)
    best = torch.full((len(images), len(x)), math.inf, device=x.device)
    for moved in (x, x.flip(3)):
        padded = F.pad(moved, (1, 1, 1, 1), mode="replicate")
        for i, j in itertools.product(range(3), repeat=2):
            best = torch.minimum(best, torch.cdist(images, padded[:, :, i:i + 32, j:j + 32].flatten(1)))
    distance, index = best.min(1)
    return distance / math.sqrt(3 * 32 * 32), index


# ------------------------------------------------------------------------------------------------------------- figures
@torch.no_grad()
def draw_figures(averaged, name, x, progression, history, final, args, out):
    """Write dcgan_*.png and the animated dcgan_progression.gif to `out`. x (N, 3, 64, 64) uint8: training images."""
    title, device = f"DCGAN, {name}, epoch {args.epochs}: ", x.device
    real, fake = x[:64].float() / 255, generate(averaged, fixed_noise(args, x))
    plot_images(out / "dcgan_data.png", list(real.split(16)), f"{name}: real images")
    plot_images(out / "dcgan_samples.png", list(fake[:64].split(8)), title + "samples", width=6)
    side_by_side = [torch.cat((r, f)) for r, f in zip(real.split(8)[:4], fake[64:].split(8))]
    plot_images(out / "dcgan_real_vs_generated.png", side_by_side, f"{name}: 8 real images, 8 generated ones, in each row", width=9)

    panels = {"loss (nats per image)": {"Loss_D": "loss_D", "Loss_G": "loss_G"}, "D(x), of real images": {"in D's step": "D_x"},
              "D(G(z)), of generated images": {"in D's step": "D_G_z1", "in G's step": "D_G_z2"}}
    plot_curves(out / "dcgan_curves.png", {label: {name: history[key] for name, key in curves.items()} for label, curves in panels.items()},
                title + "means of each epoch; shaded: the healthy range (of Loss_D; Loss_G has none)",
                bands={label: HEALTHY[next(iter(curves.values()))] for label, curves in panels.items()})
    plot_curves(out / "dcgan_swd.png", {
        "sliced Wasserstein distance (x 1000)": {"mean of three": history["swd"], **{f"{side} pixels": history[f"swd_{side}"] for side in (64, 32, 16)},
                                                 "untrained G": final["swd_untrained"], "real": final["swd_real"]},
        "diversity (of real images: 1)": {"generated": history["diversity_ratio"], "real": 1.0},
        "repetition (share of detail in common)": {"generated": history["repetition"], "real": final["repetition_real"]}},
        title + "how near to real images?")

    shown = [min(progression, key=lambda e: abs(e - target)) for target in (1, *(args.epochs * i / 5 for i in range(1, 6)))]
    plot_images(out / "dcgan_progression.png", {f"epoch {e}": progression[e][:8] / 255 for e in shown}, f"DCGAN, {name}: the same noise as training goes on")
    frames = []
    for epoch, images in progression.items():
        frames.append(to_pil_image(make_grid(images, nrow=6, padding=2, pad_value=255)))
        ImageDraw.Draw(frames[-1]).text((6, 4), f"epoch {epoch}", "white", stroke_width=2, stroke_fill="black", font_size=14)
    save(frames, out / "dcgan_progression.gif")

    distance, index = nearest(fake, x)
    closest = distance.argsort()[:10]
    plot_images(out / "dcgan_nearest.png", {"generated": fake[closest], "nearest real": x[index[closest]].float() / 255}, title +
                f"of {len(fake):,} samples the ten nearest to a training image, root mean square distance below", [f"{d:.3f}" for d in distance[closest]])
    # From z_0 to z_1 on a circle: every point on the way is again a draw from N(0, I), while those of a straight line are too near to 0.
    z, t = fixed_noise(args, x)[:12].view(2, 6, 1, -1, 1, 1), torch.linspace(0, math.pi / 2, 10, device=device).view(10, 1, 1, 1)
    walk = generate(averaged, (t.cos() * z[0] + t.sin() * z[1]).flatten(0, 1))
    plot_images(out / "dcgan_walk.png", list(walk.split(10)), title + "walks through the space of z")


def sample(args, device):
    """Draw args.sample images with the averaged generator of the last run's checkpoint; returns them, (N, 3, 64, 64) in [0, 1]."""
    state = load_checkpoint(output_dir("checkpoints", "drawn" * args.synthetic) / "dcgan.pt")
    config, n = state["config"], args.sample
    if config["script"] != "dcgan.py":
        fail(f"the checkpoint is one of {config['script']}")
    averaged = AveragedModel(make_generator(config["width"], config["latent_dim"]))
    averaged.load_state_dict(state["averaged"])
    z = torch.randn(n, config["latent_dim"], 1, 1, generator=torch.Generator().manual_seed(args.seed))
    images = generate(averaged.to(device), z.to(device))
    columns = math.ceil(math.sqrt(n))
    rows = F.pad(images, (0, 0, 0, 0, 0, 0, 0, -n % columns), value=1.0).split(columns)   # white where there is no more
    plot_images(output_dir(args.out, config["dataset"]) / "dcgan_sample.png", list(rows),
                f"DCGAN, {config['dataset']}, epoch {state['epoch']} of {config['epochs']}: {n} samples, seed {args.seed}", width=6)
    return images


# ---------------------------------------------------------------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data, model, training, output = (p.add_argument_group(title) for title in ("data", "model", "training", "output"))
    data.add_argument("--data", metavar="DIR", default="data/abstract_art", help="folder of images; if missing and called abstract_art, downloaded from Kaggle")
    data.add_argument("--synthetic", action="store_true", help="drawn paintings: no download, no network")
    data.add_argument("--limit", type=int, metavar="N", help="train on the first N images")
    model.add_argument("--latent-dim", type=int, default=100, metavar="K", help="dimensions of z")
    model.add_argument("--width", type=int, default=64, metavar="W", help="channels of the layers at the image; 32 for a quick try on a CPU")
    model.add_argument("--spectral-norm", action="store_true", help="bound the slope of D's layers [Miyato et al. 2018]")
    training.add_argument("--epochs", type=int, default=100, help="passes over the training images")
    training.add_argument("--batch-size", type=int, default=16, help="real images in a step, and as many generated ones")
    training.add_argument("--lr", type=float, default=1e-4, help="learning rate of D's Adam")
    training.add_argument("--g-lr", type=float, default=5e-5, metavar="LR", help="learning rate of G's Adam")
    training.add_argument("--decay", type=float, default=0.6, metavar="SHARE", help="the last part of training, in which both rates fall to 0; 1: all of it, 0: none")
    training.add_argument("--augment", action=argparse.BooleanOptionalAction, default=True, help="D sees all images mirrored at random and moved")
    training.add_argument("--logit-penalty", type=float, default=0.04, metavar="L", help="weight in D's loss of its squared logits; 0: none")
    training.add_argument("--average", type=float, default=0.998, metavar="DECAY", help="judge and draw with a moving average of G's weights; 0: G's own")
    training.add_argument("--instance-noise", type=float, default=0.0, metavar="S", help="standard deviation of noise on all that D sees, fading to 0")
    training.add_argument("--g-steps", type=int, default=1, metavar="N", help="steps of G for each of D")
    training.add_argument("--seed", type=int, default=0, help="of the weights, the order of the images and all noise")
    training.add_argument("--device", default="auto", help="auto (CUDA, then MPS, then CPU) or a torch device name")
    training.add_argument("--resume", action="store_true", help="go on from the checkpoint of an interrupted run")
    output.add_argument("--out", metavar="DIR", default="figures", help="folder for figures and metrics")
    output.add_argument("--sample", type=int, metavar="N", help="no training: draw N images with the last run's checkpoint to OUT/dcgan_sample.png")
    args = p.parse_args(argv)
    switches = {"decay": 1, "logit_penalty": math.inf, "average": 0.9999, "instance_noise": math.inf, "seed": 2**63 - 1}   # may be 0
    for flag in ("limit", "latent_dim", "width", "epochs", "batch_size", "lr", "g_lr", "g_steps", "sample", *switches):
        value = getattr(args, flag)
        if value is not None and not (0 <= value <= switches.get(flag, math.inf) and value < math.inf and (value or flag in switches)):
            p.error(f"--{flag.replace('_', '-')} {value} is out of range")
    return args


@one_line_errors()
def main(argv=None):
    """Train, evaluate, draw; returns the metrics that are also written to OUT/dcgan_metrics.json."""
    args = parse_args(argv)
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    if args.sample:
        return sample(args, device)
    name, x = load_paintings(args.data, args.synthetic)
    # A tenth is held out, chosen by the number of images only: the same for every seed.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held_out, x = x[order[:len(x) // 10]].to(device), x[order[len(x) // 10:]][:args.limit].to(device)
    if not len(held_out) or max(args.batch_size, 4) > len(x):
        fail(f"{len(x)} training images of {name} are less than --batch-size {args.batch_size}, or too few to train on and to hold out", 2)
    out, checkpoints = output_dir(args.out, name), output_dir("checkpoints", name)
    G = make_generator(args.width, args.latent_dim).to(device, memory_format=torch.channels_last)
    D = make_discriminator(args.width, args.spectral_norm).to(device, memory_format=torch.channels_last)
    averaged = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    parameters_G, parameters_D = (sum(p.numel() for p in net.parameters()) for net in (G, D))
    config = {"script": "dcgan.py", "dataset": name,
              **{k: v for k, v in vars(args).items() if k not in ("data", "synthetic", "device", "out", "resume", "sample")}}
    print(f"{name}: {len(x):,} training and {len(held_out):,} held-out images; G {parameters_G:,}, D {parameters_D:,} parameters on {device}")
    n = min(1024, len(x) // 2)
    real, untrained = (compare(images, x) for images in (x[n:2 * n].float() / 255, generate(averaged, fixed_noise(args, x))))
    history, progression, seconds = train(G, D, averaged, x, args, checkpoints / "dcgan.pt", config)

    fake = generate(averaged, fixed_noise(args, x))
    healthy = [all(low <= history[key][i] <= high for key, (low, high) in HEALTHY.items()) for i in range(args.epochs)]
    final = {"parameters_G": parameters_G, "parameters_D": parameters_D, **{key: values[-1] for key, values in history.items()},
             "swd_real": real["swd"], "swd_untrained": untrained["swd"], "repetition_real": real["repetition"],
             "nearest_ratio": (nearest(fake, x)[0].mean() / nearest(held_out.float() / 255, x)[0].mean()).item(),
             "healthy_fraction": sum(healthy) / len(healthy)}
    draw_figures(averaged, name, x, progression, history, final, args, out)
    metrics = {"script": "dcgan.py", "args": vars(args), "dataset": name, "torch": torch.__version__, "device": device, "seconds": seconds,
               "images_per_second": args.epochs * (len(x) // args.batch_size) * args.batch_size / seconds, "history": history, "final": final}
    save(metrics, out / "dcgan_metrics.json")
    print(f"SWD x 1000: {final['swd']:.1f} (real {final['swd_real']:.1f}, untrained G {final['swd_untrained']:.1f}); diversity {final['diversity_ratio']:.2f}; "
          f"repetition {final['repetition']:.1%} (real {final['repetition_real']:.1%})\nNearest training image: {final['nearest_ratio']:.2f} times as far as "
          f"from held-out real images; epochs in all healthy ranges: {final['healthy_fraction']:.0%}")
    print(f"torch {torch.__version__}, {device}, {seconds:.0f} s of training; figures and dcgan_metrics.json are in {out}")
    return metrics


if __name__ == "__main__":
    # A notebook cell has no __file__, and its sys.argv is the kernel's: use the defaults there.
    main([] if "__file__" not in globals() else None)
