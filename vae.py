"""Variational autoencoder: codes spread like N(0, I), so that draws from it decode to digits.

Assume an image x is made in two steps: draw a code z, a vector of k numbers, from the prior
p(z) = N(0, I); then draw x from p(x|z), which the decoder computes. Training should raise p(x),
the mean of p(x|z) over draws from p(z). But for nearly all of them p(x|z) is nearly 0, so an
encoder computes from x which z are likely to have made it: q(z|x) = N(mu, diag(sigma^2)). Write
E_q for the mean over draws from q(z|x). To draw z from q instead of p(z) is made up for by the
weight p(z) / q(z|x), and the log of a mean is at least the mean of the logs (Jensen):

    log p(x)  =  log E_q[ p(x|z) p(z) / q(z|x) ]  >=  E_q[ log( p(x|z) p(z) / q(z|x) ) ]

The right side is the evidence lower bound, ELBO [Kingma & Welling 2014, arXiv 1312.6114]. Training
(with --beta 1) minimises its negative, in nats per image (bits, but to base e):

    -ELBO(x)  =  E_q[ -log p(x|z) ]  +  E_q[ log q(z|x) - log p(z) ]
                 reconstruction         KL( q(z|x) || p(z) )

The Kullback-Leibler divergence KL is how far q(z|x) is from the prior, 0 if they are equal. The two
terms pull against each other: reconstruction wants a narrow q(z|x) in a place of its own for each
image, the KL wants each q(z|x) to be N(0, I). In between, the q(z|x) are small patches that
together roughly cover N(0, I), so a draw from it falls where the decoder was trained.

Given z, the pixels are independent, each black or white (Bernoulli variables): -log p(x|z) is the
binary cross-entropy, summed over pixels. But MNIST's digits are grey: read 0.3 as "white with
probability 0.3". With --binarize each pixel is drawn so, and the result is x. Without it, the
cross-entropy of a grey digit is the mean of -log p(b|z) over black-and-white digits b drawn from
it, and the loss is an upper bound on the mean of -log p(b). The encoder sees the grey x, so z
cannot tell which b was drawn: even a perfect decoder has a reconstruction term above 0, the floor.

    python vae.py --epochs 30

    Epoch 30/30 - Total Loss:  92.671 - Recon:  69.351 - KL: 23.320 - Test:  94.343 - 5.1 s
    Test loss, nats per grey-level image: 94.34 = reconstruction 71.14 + 1 x KL 23.20 (...)
"""

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import load_digits, plot_curves, plot_images, progress, scatter_digits


# ------------------------------------------------------- model
def mlp(*sizes):
    """Linear layers separated by SiLU (a smooth ReLU). (B, sizes[0]) -> (B, sizes[-1])"""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])  # none after the last


class VAE(nn.Module):
    """Encoder 784 -> 768 -> 512 -> mu and logvar, decoder latent_dim -> 512 -> 768 -> 784

    These are the sizes for hidden = [768, 512]. There is no forward: elbo_terms below maps x to
    the terms of the loss, decode maps z to images.
    """

    def __init__(self, mean, hidden, latent_dim, likelihood="bernoulli"):
        super().__init__()
        self.register_buffer("mean", mean)  # the mean training image (784,), not trained
        self.likelihood = likelihood
        self.encoder = mlp(784, *hidden, 2 * latent_dim)
        self.decoder = mlp(latent_dim, *reversed(hidden), 784)
        # Start near the mean image, so the decoder only has to learn how digits differ from it:
        # sigmoid(logit(mean)) = mean. Clamped, since the logit of 0 is infinite.
        self.decoder[-1].bias.data = mean.clamp(0.001, 0.999).logit()

    def encode(self, x):
        """Images (B, 784) in [0, 1] -> mu (B, k), logvar = log sigma^2 (B, k)"""
        return self.encoder(x - self.mean).chunk(2, dim=1)

    def decode(self, z):
        """Codes (..., k) -> images (..., 784) in [0, 1], the means of p(x|z)"""
        return torch.sigmoid(self.decoder(z))

    def reconstruction_loss(self, x, z):
        """-log p(x|z) in nats, summed over pixels.

        Images x (B, 784) in [0, 1]. z (B, k), a code per image -> (B,), or (S, B, k), S codes
        per image -> (S, B).
        """
        logits = self.decoder(z)
        if self.likelihood == "bernoulli":
            # -x log m - (1 - x) log(1 - m), with m = sigmoid(logits)
            x = x.expand_as(logits)  # the next line does not broadcast
            return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        # p(x|z) = N(m, I / 8), with m = sigmoid(logits): -log p(x|z) = 4 |x - m|^2 + constant.
        # The variance is a choice: doubling it is like doubling --beta.
        return 4 * (x - torch.sigmoid(logits)).square().sum(-1)


# -------------------------------------------------------- loss
def reparameterize(mu, logvar):
    """A draw from N(mu, sigma^2) that gradients flow through: z = mu + sigma * eps. (B, k)

    All randomness is in eps, so gradients reach mu and sigma; through a draw by
    torch.normal(mu, sigma) they would be 0.
    """
    eps = torch.randn_like(mu)
    sigma = torch.exp(0.5 * logvar)
    return mu + sigma * eps


def kl_divergence(mu, logvar):
    """KL(q(z|x) || N(0, I)) in nats, per image and dimension. (B, k), (B, k) -> (B, k)

    Dimensions are independent, so an image's KL is the sum over them. KL(N(mu, sigma^2) || N(0, 1))
    = -1/2 (1 + log sigma^2 - mu^2 - sigma^2)   [Kingma & Welling 2014, App. B].
    """
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


def elbo_terms(model, x):
    """-ELBO = recon + kl, in nats: recon of one draw of z, kl exact. (B, 784) -> (B,), (B,)"""
    mu, logvar = model.encode(x)  # (B, k), (B, k)
    z = reparameterize(mu, logvar)  # (B, k)
    return model.reconstruction_loss(x, z), kl_divergence(mu, logvar).sum(1)


# ------------------------------------------------------- train
def train(model, x, test_x, args):
    """Train on x (N, 784). Returns {name: [one value per epoch]} and the seconds it took.

    With --binarize x is grey, and drawn black or white here; test_x comes drawn already.
    """
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)  # fused: faster
    # OneCycleLR sets Adam's learning rate: it rises to --lr in the first 30% of the steps, then
    # falls to almost 0; momentum (Adam's beta1) does the opposite   [Smith & Topin 2017].
    steps = args.epochs * math.ceil(len(x) / args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, total_steps=steps)
    history = defaultdict(list)
    seconds = 0.0

    for epoch in range(1, args.epochs + 1):
        start = time.time()
        totals = torch.zeros(2, device=x.device)
        # x is one tensor in memory: shuffled indices do what a DataLoader would.
        batches = torch.randperm(len(x), device=x.device).split(args.batch_size)
        for idx in progress(batches, f"Epoch {epoch}/{args.epochs}"):
            batch = x[idx]  # (B, 784)
            if args.binarize:
                batch = torch.bernoulli(batch)  # white with probability x, redrawn each epoch
            recon, kl = elbo_terms(model, batch)  # (B,), (B,)
            # -ELBO for beta = 1. A larger beta pulls each q(z|x) towards N(0, I) but blurs images.
            loss = (recon + args.beta * kl).mean()

            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            # .item() here would make the CPU wait for a GPU.
            totals += torch.stack((recon, kl)).detach().sum(1)

        # Training values are means over an epoch in which the weights change, test values are
        # of its end.
        recon, kl = (totals / len(x)).tolist()
        took = time.time() - start
        seconds += took
        test_recon, test_kl = evaluate(model, test_x)
        row = {
            "train_loss": recon + args.beta * kl, "train_recon": recon, "train_kl": kl,
            "test_loss": test_recon + args.beta * test_kl,
            "test_recon": test_recon, "test_kl": test_kl,
        }
        for name, value in row.items():
            history[name].append(value)
        print(f"Epoch {epoch:2d}/{args.epochs} - Total Loss: {row['train_loss']:7.3f} "
              f"- Recon: {recon:7.3f} - KL: {kl:6.3f} - Test: {row['test_loss']:7.3f} "
              f"- {took:.1f} s", flush=True)
        if not math.isfinite(row["train_loss"]):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")
    return history, seconds


# ---------------------------------------------------- evaluate
@torch.no_grad()
def evaluate(model, x):
    """Mean of each -ELBO term over images x (N, 784), in nats, with one draw of z per image."""
    recon, kl = elbo_terms(model, x)
    return recon.mean().item(), kl.mean().item()


def log_weights(model, x, samples):
    """log( p(x|z) p(z) / q(z|x) ) of draws z from q(z|x). Images (B, 784) -> (samples, B)

    The "importance weights" inside the log have mean p(x); their logs have mean ELBO.
    """
    mu, logvar = model.encode(x)  # (B, k)
    eps = torch.randn(samples, *mu.shape, device=x.device)
    z = mu + torch.exp(0.5 * logvar) * eps  # (S, B, k)
    # log N(z; 0, I) - log N(z; mu, sigma^2) = sum (eps^2 + logvar - z^2) / 2, since
    # z - mu = sigma eps
    log_ratio = 0.5 * (eps.square() + logvar - z.square()).sum(-1)  # (S, B)
    return log_ratio - model.reconstruction_loss(x, z)


@torch.no_grad()
def negative_log_likelihood(model, x, samples):
    """-log p(x) in nats per image, by importance sampling   [Burda et al. 2016, arXiv 1509.00519]

    -log of the mean weight over many draws. It is too high on average: with one draw it is
    -ELBO, with more draws it gets closer to -log p(x).
    """
    total = 0.0
    for batch in x.split(10):  # S x 10 images at a time
        log_w = log_weights(model, batch, samples)  # (S, 10)
        # log of the mean of w = logsumexp(log w) - log S
        total += (math.log(samples) - log_w.logsumexp(0)).sum().item()
    return total / len(x)


def baselines(model, x):
    """The reconstruction term, in nats, of a perfect decoder and of the mean image. x (N, 784)"""
    mean = model.mean.clamp(0.001, 0.999).expand_as(x)
    if model.likelihood == "gaussian":
        return 0.0, 4 * (x - mean).square().sum(1).mean().item()
    floor = F.binary_cross_entropy(x, x, reduction="sum")  # above 0 if pixels are grey
    cost = F.binary_cross_entropy(mean, x, reduction="sum")
    return floor.item() / len(x), cost.item() / len(x)


def knn_accuracy(codes, labels, test_codes, test_labels, neighbours=5):
    """Share of test codes (M, k) whose nearest codes (N, k) vote for the right label."""
    votes = []
    for z in test_codes.split(500):
        nearest = torch.cdist(z, codes).topk(neighbours, largest=False).indices  # (500, neighbours)
        # The most frequent label, in a tie the smallest. On the CPU, as MPS lacks mode.
        votes.append(labels[nearest].cpu().mode(1).values)
    return (torch.cat(votes) == test_labels.cpu()).float().mean().item()


def precision_coverage(fake, real, neighbours=5):
    """How good and how varied are images `fake` (N, 784), compared with images `real` (M, 784)?

    The ball around each real image reaches its fifth nearest real neighbour.
    Precision: the share of fakes in any ball [Kynkaanniemi et al. 2019, arXiv
    1904.06991]. Coverage: the share of balls with a fake inside [Naeem et al.
    2020, arXiv 2002.09797]. Pixels are first thresholded at 0.5: a grey blur is
    nearer to a digit than other digits are, and would get a precision of 1.
    """
    fake, real = (fake > 0.5).float(), (real > 0.5).float()
    distances = torch.cdist(real, real)  # (M, M); the nearest is itself
    radius = distances.topk(neighbours + 1, largest=False).values[:, -1:]  # (M, 1)
    hit = torch.cdist(real, fake) <= radius  # (M, N)
    return hit.any(0).float().mean().item(), hit.any(1).sum().item() / len(real)


@torch.no_grad()
def measure(model, x, y, test_x, test_y, grey_test_x):
    """Measure codes and samples, for training images x (N, 784) and test images test_x (M, 784).

    Both are binarised with --binarize. grey_test_x (M, 784) are the test images before that.
    """
    mu, logvar = model.encode(test_x)  # (M, k)
    floor, mean_image = baselines(model, test_x)
    samples = model.decode(torch.randn_like(mu))  # as many as test images
    precision, coverage = precision_coverage(samples, grey_test_x)
    midpoints = model.decode((mu + mu.roll(-1, 0)) / 2)  # between a test image and the next
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "floor": floor,
        "mean_image": mean_image,
        # Dimensions in use: their mu varies from image to image   [Burda et al. 2016]. One that
        # costs more KL than it saves in reconstruction is given up: q(z|x) is N(0, 1) for all x.
        "active_units": (mu.var(0) > 0.01).sum().item(),
        "test_mse": (grey_test_x - model.decode(mu)).square().mean().item(),  # per pixel
        "knn_accuracy": knn_accuracy(model.encode(x)[0], y, mu, test_y),
        "precision": precision,
        "coverage": coverage,
        "midpoint_precision": precision_coverage(midpoints, grey_test_x)[0],
    }


def measure_others(ae, train_digits, grey_test_x):
    """The same measures of real digits, train_digits (M, 784), and of what ae.py saved, if any.

    Its "samples" are decoded draws from N(0, I), "fitted_samples" from a Gaussian fitted to the
    autoencoder's codes.
    """
    final = {}
    final["real_precision"], final["real_coverage"] = precision_coverage(train_digits, grey_test_x)
    if ae:
        final["ae_test_mse"], final["ae_knn_accuracy"] = ae["test_mse"], ae["knn_accuracy"]
        final["ae_midpoint_precision"] = precision_coverage(ae["midpoints"], grey_test_x)[0]
        for key, images in [("ae", ae["samples"]), ("ae_fitted", ae["fitted_samples"])]:
            precision, coverage = precision_coverage(images, grey_test_x)
            final |= {f"{key}_precision": precision, f"{key}_coverage": coverage}
    return final


def report(final, args):
    """Print the loss, then VAE, autoencoder and real digits side by side."""
    kind = "binarised" if args.binarize else "grey-level"
    unit = "nats" if args.likelihood == "bernoulli" else "nats up to a constant"
    print(f"Test loss, {unit} per {kind} image: {final['test_loss']:.2f} = reconstruction "
          f"{final['test_recon']:.2f} + {args.beta:g} x KL {final['test_kl']:.2f} "
          f"(reconstruction by a perfect decoder: {final['floor']:.2f}, "
          f"by the mean image: {final['mean_image']:.2f})")
    if args.binarize:
        print(f"-log p(x): {final['nll']:.2f} nats per image, with 500 importance samples")
    rows = {
        "reconstruction: MSE per pixel": "test_mse",
        "codes: right label by 5 neighbours": "knn_accuracy",
        "samples: precision": "precision",
        "samples: coverage": "coverage",
        "half-way images: precision": "midpoint_precision",
    }
    print(f"{'':36}{'VAE':>12}{'AE':>12}{'AE, fitted':>12}{'real digits':>12}")
    for label, key in rows.items():
        values = [final.get(owner + key) for owner in ("", "ae_", "ae_fitted_", "real_")]
        cells = [f"{value:12.4f}" if value is not None else f"{'-':>12}" for value in values]
        print(f"{label:36}" + "".join(cells))
    print(f"dimensions in use: {final['active_units']}")


# ----------------------------------------------------- figures
def draw_curves(history, args, title, out):
    """The loss and its two terms."""
    unit = "nats per image" if args.likelihood == "bernoulli" else "nats, up to a constant"
    labels = [f"total loss ({unit})", f"reconstruction ({unit})", "KL (nats per image)"]
    panels = {}
    for term, label in zip(("loss", "recon", "kl"), labels):
        panels[label] = {"training": history[f"train_{term}"], "test": history[f"test_{term}"]}
    plot_curves(out / "vae_curves.png", panels, title)


@torch.no_grad()
def draw_reconstructions(model, x, mu, ae, title, out):
    """Ten test images x (10, 784) and their reconstructions; mu (10, k)."""
    x_hat = model.decode(mu)
    rows, labels = [x, x_hat], ["test image", "VAE"]
    if ae:
        rows, labels = [*rows, ae["x_hat"]], [*labels, "autoencoder"]
    notes = [f"{error:.1f}" for error in (x - x_hat).square().sum(1)]
    title = f"{title}: decoded mu, the VAE's squared error below"
    plot_images(out / "vae_reconstructions.png", rows, title, labels, notes)


@torch.no_grad()
def draw_interpolations(model, mu, y, ae, title, out):
    """Decoded codes on the lines between five pairs of test images: mu (10, k), labels y (10,)."""
    t = torch.linspace(0, 1, 10, device=mu.device)[:, None]
    rows, labels = [], []
    for i in range(5):
        rows.append(model.decode(torch.lerp(mu[2 * i], mu[2 * i + 1], t)))
        labels.append(f"VAE, {y[2 * i]} to {y[2 * i + 1]}")
        if ae:
            rows.append(ae["interpolations"][i])
            labels.append("autoencoder")
    plot_images(out / "vae_interpolation.png", rows, f"{title}: interpolated codes", labels)


@torch.no_grad()
def draw_samples(model, k, title, out):
    """Decoded draws from N(0, I), as means of p(x|z); for k = 2, also the whole plane."""
    device = model.mean.device
    samples = model.decode(torch.randn(8, 8, k).to(device))
    plot_images(out / "vae_samples.png", samples, f"{title}: decoded draws from N(0, I)")
    if k == 2:
        steps = torch.special.ndtri(torch.linspace(0.02, 0.98, 16))  # quantiles of N(0, 1)
        z_2, z_1 = torch.meshgrid(steps.flip(0), steps, indexing="ij")  # z_2 upwards
        plane = model.decode(torch.stack((z_1, z_2), 2).to(device))  # (16, 16, 784)
        notes = [f"{step:.1f}" for step in steps]
        title = f"{title}: the plane of z, in equal shares of N(0, I)"
        plot_images(out / "vae_manifold.png", plane, title, notes[::-1], notes)


@torch.no_grad()
def draw_traversal(model, mu, kl, title, out):
    """One code mu (k,); each row changes one of the eight dimensions with the largest KL, kl (k,).

    They say most about an image: where KL is 0, q(z|x) is the same for all images.
    """
    dimensions = kl.argsort(descending=True)[:8].tolist()
    steps = torch.special.ndtri(torch.linspace(0.02, 0.98, 11)).to(mu.device)
    z = mu.repeat(len(dimensions), len(steps), 1)  # (8, 11, k), for k >= 8
    for row, dimension in enumerate(dimensions):
        z[row, :, dimension] = steps
    labels = [f"dimension {d}\nKL {kl[d]:.1f}" for d in dimensions]
    notes = [f"{step:.1f}" for step in steps]
    title = f"{title}: a test image's code, one dimension changed"
    plot_images(out / "vae_traversal.png", model.decode(z), title, labels, notes)


# -------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument_group("data").add_argument
    add("--data", default="data", metavar="DIR", help="where MNIST is or goes to")
    add("--synthetic", action="store_true", help="digits drawn by common.py, no download")
    add("--limit", type=int, default=60_000, help="use at most this many training images")
    add("--validate", action="store_true", help="test on a held-out sixth of the training set")
    add("--binarize", action="store_true", help="make grey pixels black or white, at random")

    add = p.add_argument_group("model").add_argument
    add("--latent-dim", type=int, default=32, metavar="K", help="dimensions of z")
    add("--hidden", type=int, nargs="+", default=[768, 512], help="widths of the hidden layers")
    forms = ("bernoulli", "gaussian")
    add("--likelihood", default="bernoulli", choices=forms, help="p(x|z)")
    add("--beta", type=float, default=1.0, help="weight of the KL")

    add = p.add_argument_group("training").add_argument
    add("--epochs", type=int, default=30, help="passes over the training images")
    add("--batch-size", type=int, default=256, help="images per step")
    add("--lr", type=float, default=3e-3, help="highest learning rate")
    add("--seed", type=int, default=0, help="of weights, order and noise")
    devices = ("auto", "cpu", "cuda", "mps")
    add("--device", default="auto", choices=devices, help="auto: a GPU, if any")

    add = p.add_argument_group("output").add_argument
    add("--out", default="figures", metavar="DIR", help="folder for figures and metrics")

    args = p.parse_args(argv)
    if min(args.latent_dim, *args.hidden, args.epochs, args.batch_size, args.lr) <= 0:
        p.error("sizes, --epochs and --lr must be above 0")
    if args.limit < 10 or args.beta < 0:
        p.error("--limit must be at least 10, --beta at least 0")
    if args.binarize and args.likelihood == "gaussian":
        p.error("--binarize needs --likelihood bernoulli")
    return args


def main(argv=None):
    """Train, measure, draw. Returns the metrics, as written to OUT/vae_metrics.json."""
    args = parse_args(argv)
    device = torch.device("cpu" if args.device == "auto" else args.device)
    if args.device == "auto" and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # numbers nearer to 0 than 1e-38, slow on a CPU, become 0

    name, x, y, grey_test_x, test_y = load_digits(args.data, args.synthetic, args.validate, device)
    train_digits = x[: len(grey_test_x)]  # to see what real digits would score as samples
    x, y = x[: args.limit], y[: args.limit]
    # load_digits also draws digits if MNIST is unavailable: their figures go to their own folder.
    out = Path(args.out, "synthetic") if name.startswith("drawn") else Path(args.out)
    test_x = grey_test_x
    if args.binarize:  # with its own seed: the same test images in every run
        coins = torch.Generator().manual_seed(0)
        test_x = torch.bernoulli(grey_test_x.cpu(), generator=coins).to(device)
    print(f"{name}: {len(x):,} training and {len(test_x):,} test images, on {device}")
    plot_images(out / "vae_data.png", test_x[:50].split(10), f"{name}: test images")

    model = VAE(x.mean(0), args.hidden, args.latent_dim, args.likelihood).to(device)
    history, seconds = train(model, x, test_x, args)

    # What ae.py saved, if run with the same data, sizes, epochs and --out. It trains on grey
    # digits, so a VAE of binarised ones is not compared with it.
    sizes = [len(x), *args.hidden, args.latent_dim, args.epochs]
    from_ae = Path("checkpoints", out, f"ae {name} {'-'.join(map(str, sizes))}.pt")
    ae = None
    if from_ae.exists() and not args.binarize:
        ae = torch.load(from_ae, map_location=device, weights_only=True)

    final = {key: values[-1] for key, values in history.items()}
    seen_x = torch.bernoulli(x) if args.binarize else x  # drawn anew, as in each epoch
    final |= measure(model, seen_x, y, test_x, test_y, grey_test_x)
    final |= measure_others(ae, train_digits, grey_test_x)
    # The Bernoulli p(x) is a probability of black-and-white digits: a grey one has none.
    final["nll"] = negative_log_likelihood(model, test_x, 500) if args.binarize else None

    with torch.no_grad():
        mu, logvar = model.encode(test_x)  # (M, k)
    kl = kl_divergence(mu, logvar).mean(0)  # (k,)
    title = f"VAE, {name}, {'binarised, ' if args.binarize else ''}k = {args.latent_dim}"
    maps = {f"{title}: mu": mu}
    if ae:
        maps["autoencoder: codes"] = ae["codes"]
    scatter_digits(out / "vae_latent.png", maps, test_y)
    draw_curves(history, args, title, out)
    draw_reconstructions(model, test_x[:10], mu[:10], ae, title, out)
    draw_interpolations(model, mu[:10], test_y[:10], ae, title, out)
    draw_samples(model, args.latent_dim, title, out)
    draw_traversal(model, mu[0], kl, title, out)

    metrics = {
        "script": "vae.py", "args": vars(args), "dataset": name,
        "torch": torch.__version__, "device": str(device),
        "seconds": seconds, "images_per_second": args.epochs * len(x) / seconds,
        "history": history, "final": final,
    }
    (out / "vae_metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    report(final, args)
    if not ae and not args.binarize:
        flags = f"--epochs {args.epochs} --latent-dim {args.latent_dim}"
        print(f"To compare, first run python ae.py {flags}, with the same data, layers and --out.")
    print(f"torch {torch.__version__}, {device}, {seconds:.0f} s of training; figures in {out}")
    return metrics


if __name__ == "__main__":
    # A notebook cell has no __file__, and its sys.argv is the kernel's.
    main([] if "__file__" not in globals() else None)
