"""Variational autoencoder: codes spread like N(0, I), so that draws from it decode to digits.

An image x is thought to be made in two steps: draw a code z of k numbers from the prior
p(z) = N(0, I), then draw x from p(x|z), which the decoder computes. To learn this from images
alone, an encoder computes which codes are likely to have made x: q(z|x) = N(mu, diag(sigma^2)).
Training minimises the negative evidence lower bound [Kingma & Welling 2014, arXiv 1312.6114],

    -ELBO  =  E_q[ -log p(x|z) ]  +  KL( q(z|x) || p(z) )  >=  -log p(x)
              reconstruction         how far q(z|x) is from N(0, I)

in nats per image (README.md derives it). Each pixel is a coin that is white with the probability
that the decoder gives; a grey pixel of 0.3 is counted as 30% white and 70% black.

    python vae.py --epochs 30

    Epoch 30/30 - Total Loss:  92.763 - Recon:  69.360 - KL: 23.402 - Test:  94.379
    Test loss, nats per grey-level image: 94.38 = reconstruction 71.12 + 1 x KL 23.26
"""

import argparse
import math
import sys
import time
from os.path import expanduser

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal

from common import device, load_digits, output_folder, plot_curves, plot_images, progress
from common import report_unwritten, save_metrics, save_weights, scatter_digits


# ------------------------------------------------------- model
def mlp(*sizes):
    """Linear layers separated by SiLU (a smooth ReLU). (B, sizes[0]) -> (B, sizes[-1])"""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])  # none after the last


class VAE(nn.Module):
    """784 -> 768 -> 512 -> mu and logvar; z -> 512 -> 768 -> 784, for hidden = [768, 512]"""

    def __init__(self, mean, hidden, latent_dim, likelihood="bernoulli"):
        super().__init__()
        self.register_buffer("mean", mean)  # the mean training image (784,), not trained
        self.likelihood = likelihood
        self.encoder = mlp(784, *hidden, 2 * latent_dim)
        self.decoder = mlp(latent_dim, *reversed(hidden), 784)
        # Start near the mean image, so the decoder only has to learn how digits differ from it:
        # sigmoid(logit(mean)) = mean. eps keeps it in [0.001, 0.999]: the logit of 0 is infinite.
        self.decoder[-1].bias.data.copy_(mean.logit(eps=0.001))

    def encode(self, x):
        """Images (B, 784) in [0, 1] -> mu (B, k), logvar = log sigma^2 (B, k)"""
        mu, logvar = self.encoder(x - self.mean).chunk(2, dim=1)
        # A cap: the KL contains exp(logvar), so one image could have a huge loss and gradient.
        return mu, logvar.clamp(max=5)

    def decode(self, z):
        """Codes (..., k) -> images (..., 784) in [0, 1], the means of p(x|z)"""
        return torch.sigmoid(self.decoder(z))

    def reconstruction_loss(self, x, z):
        """-log p(x|z) in nats, for a Gaussian up to a constant, summed over pixels.

        Images x (B, 784) in [0, 1]. z (B, k), a code per image -> (B,), or (S, B, k), S codes
        per image -> (S, B).
        """
        logits = self.decoder(z)
        if self.likelihood == "bernoulli":
            # -x log m - (1 - x) log(1 - m), with m = sigmoid(logits)
            x = x.expand_as(logits)  # the next line does not broadcast
            return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        # p(x|z) = N(m, I / 8), with m = sigmoid(logits): -log p(x|z) = 4 |x - m|^2 + constant.
        # The variance 1/8 is a choice; a larger one would give the KL more weight.
        return 4 * (x - torch.sigmoid(logits)).square().sum(-1)


# -------------------------------------------------------- loss
def reparameterize(mu, logvar):
    """A draw from N(mu, sigma^2) that gradients flow through: z = mu + sigma * eps. (B, k)

    All randomness is in eps, so gradients reach mu and sigma.
    """
    eps = torch.randn_like(mu)
    sigma = torch.exp(0.5 * logvar)
    return mu + sigma * eps


def kl_divergence(mu, logvar):
    """KL(q(z|x) || N(0, I)) in nats, per image and dimension. (B, k), (B, k) -> (B, k)

    Dimensions are independent, so an image's KL is the sum over them.
    """
    # KL(N(mu, sigma^2) || N(0, 1)) = -1/2 (1 + log sigma^2 - mu^2 - sigma^2)
    # [Kingma & Welling 2014, App. B]
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


def elbo_terms(model, x):
    """-ELBO = recon + kl, in nats: recon of one draw of z, kl exact. (B, 784) -> (B,), (B,)"""
    mu, logvar = model.encode(x)  # (B, k), (B, k)
    z = reparameterize(mu, logvar)  # (B, k)
    return model.reconstruction_loss(x, z), kl_divergence(mu, logvar).sum(1)


# ------------------------------------------------------- train
def train(model, x, test_x, args):
    """Train on x (N, 784). Returns {name: [one value per epoch]} and the seconds of training."""
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)  # fused: faster
    # The learning rate rises to --lr, then falls to almost 0 [Smith & Topin 2017]
    steps = max(10, args.epochs * math.ceil(len(x) / args.batch_size))  # fewer leave no rise
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        opt, args.lr, total_steps=steps, cycle_momentum=False)
    history, seconds = {}, 0.0

    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        model.train()
        totals = torch.zeros(2, device=x.device)
        # x is one tensor in memory: shuffled indices do what a DataLoader would.
        batches = torch.randperm(len(x), device=x.device).split(args.batch_size)

        for idx in progress(batches, epoch, args.epochs):
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

        recon, kl = (totals / len(x)).tolist()  # the means over the epoch
        seconds += time.perf_counter() - start
        test_recon, test_kl = evaluate(model, test_x)
        row = {
            "train_loss": recon + args.beta * kl, "train_recon": recon, "train_kl": kl,
            "test_loss": test_recon + args.beta * test_kl,
            "test_recon": test_recon, "test_kl": test_kl,
        }
        for name, value in row.items():
            history.setdefault(name, []).append(value)
        print(f"Epoch {epoch:2d}/{args.epochs} - Total Loss: {row['train_loss']:7.3f} "
              f"- Recon: {recon:7.3f} - KL: {kl:6.3f} - Test: {row['test_loss']:7.3f}", flush=True)
        if not math.isfinite(row["train_loss"] + row["test_loss"]):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")
    return history, seconds


# ---------------------------------------------------- evaluate
@torch.no_grad()
def evaluate(model, x):
    """Mean of each -ELBO term over images x (N, 784), in nats, with one draw of z per image."""
    model.eval()
    recon, kl = elbo_terms(model, x)
    return recon.mean().item(), kl.mean().item()


def log_weights(model, x, samples):
    """log( p(x|z) p(z) / q(z|x) ) of draws z from q(z|x). Images (B, 784) -> (samples, B)

    The weights' expectation is p(x), that of their logs the ELBO. Gradients flow through z.
    """
    mu, logvar = model.encode(x)  # (B, k)
    q, prior = Normal(mu, torch.exp(0.5 * logvar)), Normal(0.0, 1.0)
    z = q.rsample([samples])  # (S, B, k)
    log_ratio = (prior.log_prob(z) - q.log_prob(z)).sum(-1)  # log p(z) / q(z|x), (S, B)
    return log_ratio - model.reconstruction_loss(x, z)


@torch.no_grad()
def negative_log_likelihood(model, x, samples):
    """-log p(x) in nats per image, by importance sampling [Burda et al. 2016, arXiv 1509.00519]

    The mean weight estimates p(x) without bias, but -log of it is too high on average, less so
    with more samples.
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
        return {"floor": 0.0, "mean_image": 4 * (x - mean).square().sum(1).mean().item()}
    floor = F.binary_cross_entropy(x, x, reduction="sum")  # 0 log 0 = 0; > 0 if pixels are grey
    cost = F.binary_cross_entropy(mean, x, reduction="sum")
    return {"floor": floor.item() / len(x), "mean_image": cost.item() / len(x)}


def nearest_labels(queries, points, labels):
    """Labels of the five points nearest to each query. (M, d), (N, d), (N,) -> (M, 5)"""
    votes = []
    for batch in queries.split(500):  # all M N distances at once could take 2.4 GB
        nearest = torch.cdist(batch, points).topk(5, largest=False).indices  # (500, 5)
        votes.append(labels[nearest])
    return torch.cat(votes)


def accuracy(votes, labels):
    """Share of images whose most frequent vote is their label. Votes (M, 5), labels (M,)"""
    return (F.one_hot(votes, 10).sum(1).argmax(1) == labels).float().mean().item()


def agreement(votes):
    """Share of images whose votes (M, 5) are unanimous: a sign that they look like one digit."""
    return (votes == votes[:, :1]).all(1).float().mean().item()


def coverage(fake, real):
    """Share of real images (M, 784) that have a fake one (N, 784) nearby: are all kinds there?

    Nearby means: not farther away than the fifth nearest other real image [Naeem et al. 2020,
    arXiv 2002.09797]. Pixels are thresholded at 0.5, since grey images are near to many digits.
    """
    fake, real = (fake > 0.5).float(), (real > 0.5).float()
    radius = torch.cdist(real, real).topk(6, largest=False).values[:, -1]  # the nearest is itself
    return (torch.cdist(real, fake).amin(1) <= radius).float().mean().item()


def measure_codes(model, x, y, mu, test_x, test_y):
    """What the codes mu (M, k) keep of test_x (M, 784), and how many dimensions they use."""
    return {
        # A dimension is in use if its mu varies from image to image [Burda et al. 2016].
        "active_units": (mu.var(0) > 0.01).sum().item(),
        "test_mse": (test_x - model.decode(mu)).square().mean().item(),  # per pixel
        "knn_accuracy": accuracy(nearest_labels(mu, model.encode(x)[0], y), test_y),
    }


def measure_images(model, mu, test_x, digits, labels):
    """Agreement and coverage of samples and real digits, agreement of midpoints of codes mu.

    Agreement is judged by all training digits (N, 784) with labels (N,), also those that --limit
    left out. Coverage is judged by the test images (M, 784).
    """
    samples = model.decode(torch.randn_like(mu))  # draws from N(0, I)
    midpoints = model.decode((mu + mu.roll(-1, 0)) / 2)  # between an image and the next
    return {
        "agreement": agreement(nearest_labels(samples, digits, labels)),
        "midpoint_agreement": agreement(nearest_labels(midpoints, digits, labels)),
        "agreement_real": agreement(nearest_labels(test_x, digits, labels)),
        "coverage": coverage(samples, test_x),
        "coverage_real": coverage(digits[: len(test_x)], test_x),
    }


# ----------------------------------------------------- figures
def draw_curves(history, args, title, out):
    """The loss and its two terms."""
    unit = "nats per image" if args.likelihood == "bernoulli" else "nats, up to a constant"
    labels = [f"total loss ({unit})", f"reconstruction ({unit})", "KL (nats per image)"]
    panels = {}
    for term, label in zip(("loss", "recon", "kl"), labels):
        panels[label] = {"training": history[f"train_{term}"], "test": history[f"test_{term}"]}
    plot_curves(out / "vae_curves.png", panels, title)


def draw_reconstructions(model, x, mu, title, out):
    """Ten test images x (10, 784) and their reconstructions from mu (10, k)."""
    x_hat = model.decode(mu)
    notes = [f"{error:.1f}" for error in (x - x_hat).square().sum(1)]
    labels = ["test image", "VAE"]
    title = f"{title}: decoded mu, squared error below"
    plot_images(out / "vae_reconstructions.png", [x, x_hat], title, labels, notes)


def draw_interpolations(model, mu, y, title, out):
    """Decoded codes on the lines between five pairs of test images: mu (10, k), labels y (10,)."""
    t = torch.linspace(0, 1, 10, device=mu.device)[:, None]
    rows = [model.decode(torch.lerp(mu[i], mu[i + 1], t)) for i in range(0, 10, 2)]
    labels = [f"{a} to {b}" for a, b in y.view(5, 2).tolist()]
    plot_images(out / "vae_interpolation.png", rows, f"{title}: interpolated codes", labels)


def draw_samples(model, k, title, out):
    """Decoded draws from N(0, I), as means of p(x|z); for k = 2, also the plane."""
    samples = model.decode(torch.randn(8, 8, k).to(model.mean.device))
    plot_images(out / "vae_samples.png", samples, f"{title}: decoded draws from N(0, I)")
    if k == 2:
        # Equal probability lies between one step and the next.
        steps = Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, 16))
        z_1, z_2 = torch.meshgrid(steps, steps.flip(0), indexing="xy")  # z_2 upwards
        plane = model.decode(torch.stack((z_1, z_2), 2).to(model.mean.device))  # (16, 16, 784)
        ticks = [f"{step:.1f}" for step in steps]
        title = f"{title}: the plane of z, z1 to the right, z2 upwards"
        plot_images(out / "vae_manifold.png", plane, title, ticks[::-1], ticks)


def draw_traversal(model, mu, kl, title, out):
    """One code mu (k,); each row changes one of the dimensions with the largest mean KL, kl (k,).

    These say most about an image.
    """
    dimensions = kl.argsort(descending=True)[:8].tolist()
    steps = Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, 11)).to(mu.device)
    z = mu.repeat(len(dimensions), len(steps), 1)  # (8, 11, k), for k >= 8
    for row, dimension in enumerate(dimensions):
        z[row, :, dimension] = steps
    labels = [f"dimension {d}\nKL {kl[d]:.1f} nats" for d in dimensions]
    notes = [f"{step:.1f}" for step in steps]
    title = f"{title}\na test image's code, with one dimension set to the values below"
    plot_images(out / "vae_traversal.png", model.decode(z), title, labels, notes)


# -------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    # Data
    p.add_argument("--data", type=expanduser, default="data", help="where MNIST is or goes to")
    p.add_argument("--synthetic", action="store_true", help="drawn digits, no download")
    p.add_argument("--limit", type=int, default=60_000, help="train on at most this many images")
    p.add_argument("--validate", action="store_true", help="test on a sixth of the training set")
    p.add_argument("--binarize", action="store_true", help="draw pixels black or white")
    # Model
    p.add_argument("--latent-dim", type=int, default=32, metavar="K", help="dimensions of z")
    p.add_argument("--hidden", type=int, nargs="+", default=[768, 512], help="widths of layers")
    kinds = ("bernoulli", "gaussian")
    p.add_argument("--likelihood", default="bernoulli", choices=kinds, help="p(x|z)")
    p.add_argument("--beta", type=float, default=1.0, help="weight of the KL")
    # Training
    p.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    p.add_argument("--batch-size", type=int, default=256, help="images per step")
    p.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    p.add_argument("--seed", type=int, default=0, help="of weights, order and noise")
    p.add_argument("--device", type=device, default="auto",
                   help="cpu, cuda, mps, ...; auto: a GPU, if any")
    # Output
    p.add_argument("--out", type=expanduser, default="figures", help="folder for the results")

    notebook = "__file__" not in globals() or "kernel_launcher" in sys.argv[0]
    if argv is None and notebook:  # sys.argv is the kernel's
        argv = []
    args = p.parse_args(argv)
    if not min(args.lr, args.latent_dim, *args.hidden, args.epochs, args.batch_size) > 0:
        p.error("sizes, --epochs and --lr must be above 0")
    if args.limit < 10 or not args.beta >= 0:
        p.error("--limit must be at least 10, --beta at least 0")
    if args.binarize and args.likelihood == "gaussian":
        p.error("--binarize needs --likelihood bernoulli")
    return args


def report(final, seconds, args, out):
    kind = "binarised" if args.binarize else "grey-level"
    unit = "nats" if args.likelihood == "bernoulli" else "nats up to a constant"
    print(f"Test loss, {unit} per {kind} image: {final['test_loss']:.2f} = reconstruction "
          f"{final['test_recon']:.2f} + {args.beta:g} x KL {final['test_kl']:.2f}")
    if args.binarize:
        print(f"-log p(x): {final['nll']:.2f} nats per image, with 500 importance samples")
    print(f"Right label by 5 nearest neighbours: {final['knn_accuracy']:.1%}; "
          f"dimensions in use: {final['active_units']}")
    print(f"Samples (real digits): agreement {final['agreement']:.0%} "
          f"({final['agreement_real']:.0%}), coverage {final['coverage']:.0%} "
          f"({final['coverage_real']:.0%})")
    print(f"torch {torch.__version__}, {args.device}, {seconds:.0f} s of training; "
          f"see {str(out)!a}")


def main(argv=None):
    """Train, measure, draw. Returns the metrics, as written to vae_metrics.json."""
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # numbers nearer to 0 than 1e-38, slow on a CPU, become 0

    # Data
    data = load_digits(args.data, args.synthetic, args.validate, args.device)
    name, digits, labels, grey_test_x, test_y = data
    x, y = digits[: args.limit], labels[: args.limit]
    test_x = grey_test_x
    if args.binarize:  # with its own seed: the same test images in every run
        name += ", binarised"
        g = torch.Generator().manual_seed(0)
        test_x = torch.bernoulli(grey_test_x.cpu(), generator=g).to(args.device)
    out = output_folder(args.out, name)
    title = f"VAE, {name}, k = {args.latent_dim}, {args.likelihood}, beta = {args.beta:g}"
    print(f"{name}: {len(x):,} training and {len(test_x):,} test images, on {args.device}")
    plot_images(out / "vae_data.png", test_x[:50].split(10), f"{name}: test images")

    # Train
    model = VAE(x.mean(0), args.hidden, args.latent_dim, args.likelihood).to(args.device)
    history, seconds = train(model, x, test_x, args)
    save_weights({"args": vars(args), "model": model.state_dict()}, out / "vae.pt")
    model.requires_grad_(False)  # only measured from here on

    # Measure
    print("Measuring and drawing, which may take minutes ...")
    final = {"parameters": sum(p.numel() for p in model.parameters())}
    final |= {key: values[-1] for key, values in history.items()}
    mu, logvar = model.encode(test_x)  # (M, k)
    train_x = torch.bernoulli(x) if args.binarize else x
    final |= baselines(model, test_x)
    final |= measure_codes(model, train_x, y, mu, test_x, test_y)
    final |= measure_images(model, mu[:5000], grey_test_x[:5000], digits, labels)
    # p(x) is a probability only for black-and-white digits.
    final["nll"] = negative_log_likelihood(model, test_x, 500) if args.binarize else None
    metrics = save_metrics(out / "vae_metrics.json", args, name, seconds, history, final)

    # Draw
    draw_curves(history, args, title, out)
    draws = torch.randn(10, args.latent_dim).to(args.device)
    sigma = (0.5 * logvar).exp()
    scatter_digits(out / "vae_latent.png", mu, test_y, title, sigma, draws, model.decode(draws))
    draw_reconstructions(model, test_x[:10], mu[:10], title, out)
    draw_interpolations(model, mu[:10], test_y[:10], title, out)
    draw_samples(model, args.latent_dim, title, out)
    draw_traversal(model, mu[0], kl_divergence(mu, logvar).mean(0), title, out)

    report(final, seconds, args, out)
    report_unwritten()
    return metrics


if __name__ == "__main__":
    main()
