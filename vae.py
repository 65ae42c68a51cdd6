"""Variational autoencoder: an autoencoder whose codes are made to fill N(0, I), so that a code drawn from it decodes to a digit.

The encoder gives a Gaussian q(z|x) = N(mu, diag(sigma^2)) over codes, the decoder a distribution p(x|z) over images. Both are
trained to maximise a lower bound of the data's log-likelihood, the ELBO; its negative is the loss, in nats per image:

    -log p(x)  <=  -ELBO(x) = E_q(z|x)[ -log p(x|z) ]  +  KL( q(z|x) || N(0, I) )
                              reconstruction              KL             [Kingma & Welling 2014, arXiv 1312.6114]

    python vae.py --epochs 30

    Epoch 30/30 - Total Loss:  92.915 - Recon:  69.557 - KL: 23.358 - Test:  94.378 - 3.3 s - 18,341 images/s
    Test loss, nats per grey-level image: reconstruction 71.15 (perfect 45.53, mean image 205.97) + 1 x KL 23.23 = 94.38; active units 18
    torch 2.15.0+cu132, cpu, 101 s of training; figures and vae_metrics.json are in figures

The defaults: 32 dimensions, since 18 get used and the others cost nothing; two layers, as wide as keeps an epoch under ten seconds
on two CPU cores; batches of 256 for speed; weight decay 0.05, which takes training and test loss nearer to each other. What each is
worth, README's ladder says. They were chosen by the test loss, with one seed: a little luck is in the numbers.
"""

import argparse
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from common import fail, load_checkpoint, load_digits, one_line_errors, output_dir, pick_device, plot_curves, plot_images, progress, save, scatter_digits

# --------------------------------------------------------------------------------------------------------------- model
def mlp(*sizes):
    """Linear layers of these sizes, SiLU between them, none after the last. (B, sizes[0]) -> (B, sizes[-1])"""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class VAE(nn.Module):
    """784 -> hidden -> 2 * latent_dim (mu and log sigma^2); latent_dim -> hidden mirrored -> 784.

    `mean`: the training set's mean image (784,) in [0, 1]; `likelihood`: "bernoulli" or "gaussian", the form of p(x|z).
    """

    def __init__(self, mean, hidden, latent_dim, likelihood="bernoulli"):
        super().__init__()
        self.register_buffer("mean", mean)
        self.likelihood = likelihood
        self.encoder = mlp(784, *hidden, 2 * latent_dim)
        self.decoder = mlp(latent_dim, *reversed(hidden), 784)
        # Start from the mean image, as if x did not depend on z; the network learns only how a digit differs from it.
        m = mean.clamp(1e-3, 1 - 1e-3)
        self.decoder[-1].bias.data = m.logit() if likelihood == "bernoulli" else (2 * m - 1).atanh()

    def encode(self, x):
        """Images (B, 784) in [0, 1] -> mu (B, k), logvar = log sigma^2 (B, k)"""
        return self.encoder(x - self.mean).chunk(2, dim=1)

    def decode(self, z):
        """Codes (..., k) -> mean images (..., 784) in [0, 1]"""
        out = self.decoder(z)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else (torch.tanh(out) + 1) / 2

    def recon(self, x, z):
        """-log p(x|z) in nats: images (B, 784) in [0, 1], codes (..., B, k) -> (..., B)"""
        out = self.decoder(z)
        if self.likelihood == "bernoulli":
            # p = sigmoid(out):  -x log p - (1 - x) log(1 - p) = log(1 + e^out) - x out, which cannot overflow
            return F.softplus(out).sum(-1) - (x * out).sum(-1)
        # N(x; tanh(out), 1/2) on [-1, 1]: the squared error; its constant, 784 / 2 log pi, is left out as in the lab
        return (torch.tanh(out) - (2 * x - 1)).square().sum(-1)


# ---------------------------------------------------------------------------------------------------------------- loss
def reparameterize(mu, logvar):
    """A draw from N(mu, sigma^2) that gradients flow through: z = mu + sigma * eps, eps ~ N(0, I). (B, k) -> (B, k)"""
    return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)


def kl_divergence(mu, logvar):
    """KL of each latent dimension in nats, (B, k) -> (B, k); the sum over dimensions is the loss's KL."""
    # KL(N(mu, s^2) || N(0, 1)) = -1/2 (1 + log s^2 - mu^2 - s^2)          [Kingma & Welling 2014, App. B]
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


def elbo_terms(model, x):
    """One-sample estimate of both terms of -ELBO for each image, in nats: (B, 784) -> recon (B,), kl (B,)"""
    mu, logvar = model.encode(x)
    return model.recon(x, reparameterize(mu, logvar)), kl_divergence(mu, logvar).sum(1)


# --------------------------------------------------------------------------------------------------------------- train
def train(model, x, test_x, args, checkpoint, config):
    """Train on x (N, 784) in place; returns {name: [one value per epoch]} and the seconds that it took."""
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.05, fused=True)
    # The learning rate goes up for a tenth of the steps, then down to zero along a cosine.
    steps = args.epochs * math.ceil(len(x) / args.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda i: min(1, 10 * (i + 1) / steps) * (1 + math.cos(math.pi * i / steps)) / 2)
    parts, done, seconds = {"model": model, "opt": opt, "schedule": schedule}, 0, 0.0
    history = {f"{split}_{term}": [] for split in ("train", "test") for term in ("loss", "recon", "kl")}
    if args.resume:
        state = load_checkpoint(checkpoint, config, parts)
        history, done, seconds = state["history"], state["epoch"], state["seconds"]
        torch.set_rng_state(state["rng"])

    for epoch in range(done + 1, args.epochs + 1):
        start, total = time.time(), torch.zeros(2, device=x.device)
        for idx in progress(torch.randperm(len(x)).split(args.batch_size), f"Epoch {epoch}/{args.epochs}"):
            batch = x[idx.to(x.device)]                               # (B, 784)
            if args.binarize:
                batch = torch.bernoulli(batch)                        # white with probability x, drawn anew in each epoch
            recon, kl = elbo_terms(model, batch)                      # (B,), (B,)
            opt.zero_grad()
            (recon + args.beta * kl).mean().backward()
            opt.step()
            schedule.step()
            total += torch.stack((recon.detach().sum(), kl.detach().sum()))  # stays on the device: nothing waits for it here
        took = time.time() - start
        for split, (recon, kl) in ("train", (total / len(x)).tolist()), ("test", evaluate(model, test_x)):
            for term, value in ("loss", recon + args.beta * kl), ("recon", recon), ("kl", kl):
                history[f"{split}_{term}"].append(value)
        loss, recon, kl, test_loss = (history[h][-1] for h in ("train_loss", "train_recon", "train_kl", "test_loss"))
        if not math.isfinite(loss):
            fail(f"the loss is not finite in epoch {epoch}; try a smaller --lr than {args.lr}. {checkpoint} holds the epoch before")
        seconds += took
        print(f"Epoch {epoch:2d}/{args.epochs} - Total Loss: {loss:7.3f} - Recon: {recon:7.3f} - KL: {kl:6.3f} - Test: {test_loss:7.3f} - "
              f"{took:.1f} s - {len(x) / took:,.0f} images/s", flush=True)
        save({"config": config, "epoch": epoch, "history": history, "seconds": seconds, "rng": torch.get_rng_state(),
              **{name: part.state_dict() for name, part in parts.items()}}, checkpoint)
    return history, seconds


# ------------------------------------------------------------------------------------------------------------ evaluate
@torch.no_grad()
def evaluate(model, x):
    """Mean reconstruction term and mean KL over images x (N, 784), nats per image."""
    return (sum(torch.stack(elbo_terms(model, b)).sum(1) for b in x.split(1000)) / len(x)).tolist()


@torch.no_grad()
def negative_log_likelihood(model, x, samples):
    """Importance-weighted estimate of -log p(x) in nats per image; tends to it from above   [Burda et al. 2016, arXiv 1509.00519]

    -log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x),  z_s ~ q(z|x);  S = 1 is the -ELBO.
    """
    total = 0.0
    for b in x.split(max(1, 5000 // samples)):                 # at most 5,000 codes at a time, or S: memory stays flat
        mu, logvar = model.encode(b)                           # (B, k)
        eps = torch.randn(samples, *mu.shape, device=x.device)
        z = mu + torch.exp(0.5 * logvar) * eps                 # (S, B, k)
        # log N(z; 0, I) - log N(z; mu, sigma^2) = sum_k (eps^2 + log sigma^2 - z^2) / 2: the constants cancel
        log_w = 0.5 * (eps.square() + logvar - z.square()).sum(-1) - model.recon(b, z)       # (S, B)
        total += (math.log(samples) - torch.logsumexp(log_w, 0)).sum().item()
    return total / len(x)


def knn_accuracy(codes, labels, test_codes, test_labels, k=5):
    """Share of test codes (M, d) whose k nearest training codes (N, d) vote for the right digit."""
    nearest = torch.cat([torch.cdist(z, codes).topk(k, largest=False).indices for z in test_codes.split(500)])  # (M, k)
    return (labels[nearest].cpu().mode(1).values == test_labels.cpu()).float().mean().item()


def precision_coverage(fake, real, k=5):
    """How good and how varied are fake images (N, 784), against real ones (M, 784) that the model has not seen?

    A ball around each real image reaches to its k-th nearest real neighbour, in pixel space. Precision: the share of fakes in
    any ball [Kynkaanniemi et al. 2019, arXiv 1904.06991]. Coverage: the share of balls with a fake inside [Naeem et al. 2020,
    arXiv 2002.09797]. All pixels are made black or white at 0.5 first: else a grey blur is close to everything, and scores 1.
    """
    fake, real = (fake > 0.5).float(), (real > 0.5).float()
    inside, covered = torch.zeros(len(fake), dtype=torch.bool, device=fake.device), 0
    for r in real.split(1000):
        radius = torch.cdist(r, real).topk(k + 1, largest=False).values[:, -1:]   # k + 1: the nearest is the image itself
        hit = torch.cdist(r, fake) <= radius                                      # (1000, N)
        inside |= hit.any(0)
        covered += hit.any(1).sum().item()
    return inside.float().mean().item(), covered / len(real)


def distance_from_prior(z, directions=200):
    """Sliced Wasserstein-1 distance of codes (N, k) from N(0, I): over random directions, how far (in standard deviations of the
    prior) do the sorted projections lie from a standard normal's quantiles?   [Bonneel et al. 2015]"""
    v = torch.randn(z.shape[1], directions, generator=torch.Generator().manual_seed(0)).to(z.device)
    projections = (z @ (v / v.norm(dim=0))).sort(0).values                           # (N, directions)
    quantiles = torch.special.ndtri((torch.arange(len(z)) + 0.5) / len(z)).to(z.device)   # (N,), of N(0, 1)
    return (projections - quantiles[:, None]).abs().mean().item()


# ------------------------------------------------------------------------------------------------------------- figures
@torch.no_grad()
def draw_figures(model, ae, name, x, y, mu, kl, history, args, out):
    """Write vae_*.png to `out`. x (M, 784), y (M,), mu (M, k): test images, labels and codes; kl (k,): mean KL of each dimension;
    ae: what ae.py handed over, or None."""
    k, device, noise = args.latent_dim, x.device, torch.Generator().manual_seed(args.seed)  # on the CPU: the same noise everywhere
    title = f"VAE, {name}{' (binarised)' * args.binarize}, {args.likelihood}, k = {k}: "
    unit = "nats per image" if args.likelihood == "bernoulli" else "nats per image, up to a constant"
    plot_curves(out / "vae_curves.png", {f"{label} ({unit})": {split: history[f"{split}_{term}"] for split in ("train", "test")}
                for term, label in (("loss", "total loss"), ("recon", "reconstruction"), ("kl", "KL"))}, title + "the loss and its two terms")
    x_hat = model.decode(mu[:10])
    plot_images(out / "vae_reconstructions.png", {"test image": x[:10], "decoded mu": x_hat}, title + "test images, squared error below",
                [f"{e:.1f}" for e in (x[:10] - x_hat).square().sum(1)])
    samples = model.decode(torch.randn(64, k, generator=noise).to(device)).view(8, 8, 784)
    plot_images(out / "vae_samples.png", list(samples), title + "decoded draws from N(0, I)", width=5.5)
    t = torch.linspace(0, 1, 10, device=device)[:, None]
    paths = {f"{y[i]} to {y[i + 1]}": model.decode(torch.lerp(mu[i], mu[i + 1], t)) for i in range(0, 10, 2)}
    plot_images(out / "vae_interpolation.png", paths, title + "decoded codes on the line between those of two test images")
    fig = Figure(figsize=(7, 6), layout="constrained")
    scatter_digits(fig.add_subplot(), mu, y, title + f"mu of {len(x):,} test images")
    save(fig, out / "vae_latent.png")

    # On each axis, steps that hold equal shares of N(0, 1): its quantiles.
    steps = torch.special.ndtri(torch.linspace(0.02, 0.98, 16 if k == 2 else 11)).to(device)
    if k == 2:
        plane = torch.cartesian_prod(steps.flip(0), steps).flip(1).view(16, 16, 2)        # z_1 to the right, z_2 upwards
        plot_images(out / "vae_manifold.png", list(model.decode(plane)), title + "decoded grid of Gaussian quantiles", width=7)
    else:
        walks = mu[0].repeat(min(8, k), len(steps), 1)                                     # (8, 11, k)
        top = kl.topk(len(walks)).indices
        for walk, d in zip(walks, top):
            walk[:, d] = steps
        plot_images(out / "vae_traversal.png", {f"$z_{{{d}}}$, KL {kl[d]:.1f}": row for d, row in zip(top.tolist(), model.decode(walks))},
                    title + "one code, one dimension changed at a time", [f"{s:.1f}" for s in steps])
    fig = Figure(figsize=(8.5, 3), layout="constrained")
    ax = fig.add_subplot(title=title + "what each dimension tells about a test image", xlabel="latent dimension, sorted", ylabel="KL (nats per image)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.bar(range(1, k + 1), kl.sort(descending=True).values.cpu().numpy())
    save(fig, out / "vae_kl.png")
    if ae is None:
        return
    title = f"{name}, k = {k}: "
    fig = Figure(figsize=(11, 5.4), layout="constrained")
    for ax, z, of in zip(fig.subplots(1, 2), (ae["codes"], mu), ("AE: codes", "VAE: mu")):
        scatter_digits(ax, z, y, of)
        for radius in (1, 2, 3):
            ax.add_patch(Circle((0, 0), radius, fill=False, ls="--"))
    fig.suptitle(title + f"{len(x):,} test images; dashed: 1, 2 and 3 standard deviations of N(0, I)")
    save(fig, out / "vae_vs_ae_latent.png")
    plot_images(out / "vae_vs_ae_reconstructions.png", {"test image": x[:10], "AE": ae["reconstructions"], "VAE": x_hat},
                title + "reconstructions of test images")
    rows = {}
    for (pair, path), ae_path in list(zip(paths.items(), ae["paths"]))[:3]:
        rows |= {f"AE, {pair}": ae_path, f"VAE, {pair}": path}
    plot_images(out / "vae_vs_ae_interpolation.png", rows, title + "decoded codes on the line between those of two test images")


def report(f, args):
    """Print the final metrics f: the test loss beside its floor and baseline, then autoencoder, VAE and real digits in columns."""
    print(f"Test loss, nats per {'binarised' if args.binarize else 'grey-level'} image: reconstruction {f['test_recon']:.2f} (perfect {f['floor']:.2f}, "
          f"mean image {f['mean_image']:.2f}) + {args.beta:g} x KL {f['test_kl']:.2f} = {f['test_loss']:.2f}; active units {f['active_units']}")
    if f["nll"] is not None:
        print(f"-log p(x) {f['nll']:.2f} nats per image ({args.nll_samples} importance samples)")
    print(f"{'':40}{'AE':>12}{'AE, fitted':>12}{'VAE':>12}{'real digits':>12}")
    for label, key in (("test error (MSE per pixel)", "test_mse"), ("5-nearest-neighbour accuracy of codes", "knn_accuracy"),
                       ("distance of codes from N(0, I)", "prior_distance"), ("precision of samples", "precision"),
                       ("coverage of samples", "coverage"), ("precision of half-way interpolations", "midpoint_precision")):
        print(f"{label:40}" + "".join(f"{f[c + key]:12.4f}" if c + key in f else f"{'-':>12}" for c in ("ae_", "ae_fitted_", "", "real_")))


# ---------------------------------------------------------------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data, model, training, output = (p.add_argument_group(title) for title in ("data", "model", "training", "output"))
    data.add_argument("--data", metavar="DIR", default="data", help="where MNIST is (DIR/MNIST/raw) or will be downloaded to")
    data.add_argument("--synthetic", action="store_true", help="drawn digits instead of MNIST: no download, no network")
    data.add_argument("--limit", type=int, metavar="N", help="train on the first N images")
    data.add_argument("--validate", action="store_true", help="leave the test images alone: train on 5/6 of the training images, test on the rest")
    data.add_argument("--binarize", action="store_true", help="black or white pixels, white with probability x, as for published likelihoods")
    model.add_argument("--latent-dim", type=int, default=32, metavar="K", help="dimensions of z")
    model.add_argument("--hidden", type=int, nargs="+", default=[768, 512], metavar="H", help="hidden layers of the encoder, mirrored in the decoder")
    model.add_argument("--likelihood", choices=("bernoulli", "gaussian"), default="bernoulli", help="p(x|z): cross-entropy, or squared error on [-1, 1]")
    model.add_argument("--beta", type=float, default=1.0, help="weight of the KL; 1 is the ELBO [Higgins et al. 2017]")
    training.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    training.add_argument("--batch-size", type=int, default=256, help="images in a step")
    training.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of the schedule")
    training.add_argument("--seed", type=int, default=0, help="of the weights, the order of the images and all noise")
    training.add_argument("--device", default="auto", help="auto (CUDA, then MPS, then CPU) or a torch device name")
    training.add_argument("--resume", action="store_true", help="go on from the checkpoint of an interrupted run")
    output.add_argument("--out", metavar="DIR", default="figures", help="folder for figures and metrics")
    output.add_argument("--nll-samples", type=int, metavar="S", help="estimate log p(x) with S draws per test image; 500 with --binarize, else 0 (not)")
    args = p.parse_args(argv)
    if args.nll_samples is None:
        args.nll_samples = 500 if args.binarize else 0
    for flag in ("limit", "latent_dim", "epochs", "batch_size", "lr", "hidden", "beta", "nll_samples", "seed"):
        value = getattr(args, flag)
        smallest = min(value) if flag == "hidden" else value
        if value is not None and not (0 < smallest < 2**63 or flag in ("beta", "nll_samples", "seed") and value == 0):     # torch takes no larger seed
            p.error(f"--{flag.replace('_', '-')} {value} is out of range")
    if args.binarize and args.likelihood != "bernoulli":
        p.error("--binarize needs --likelihood bernoulli")
    return args


@one_line_errors()
def main(argv=None):
    """Train, evaluate, draw; returns the metrics that are also written to OUT/vae_metrics.json."""
    args = parse_args(argv)
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # CPU: the gradients of ever-black pixels fade into subnormal floats, which are slow
    name, x, y, grey_x, test_y = load_digits(args.data, args.synthetic, args.limit, device, args.validate)
    if max(args.batch_size, 5) > len(x):
        fail(f"{len(x)} training images of {name} are too few: at least 5 are needed, and no fewer than --batch-size {args.batch_size}", 2)
    # The test images are binarised once, with a seed of their own: the same for every run.
    test_x = torch.bernoulli(grey_x.cpu(), generator=torch.Generator().manual_seed(0)).to(device) if args.binarize else grey_x
    out, checkpoints = output_dir(args.out, name), output_dir("checkpoints", name)
    model = VAE(x.mean(0), args.hidden, args.latent_dim, args.likelihood).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    config = {"script": "vae.py", "dataset": name,
              **{k: v for k, v in vars(args).items() if k not in ("data", "synthetic", "device", "out", "resume", "nll_samples")}}
    print(f"{name}: {len(x):,} training and {len(test_x):,} test images; {parameters:,} parameters on {device}")
    history, seconds = train(model, x, test_x, args, checkpoints / "vae.pt", config)

    with torch.no_grad():
        (mu, logvar), train_mu = model.encode(test_x), torch.cat([model.encode(b)[0] for b in x.split(1000)])     # (M, k) twice, (N, k)
        samples = model.decode(torch.randn(*mu.shape, generator=torch.Generator().manual_seed(args.seed)).to(device))   # (M, 784)
        kl = kl_divergence(mu, logvar).mean(0)                                                                    # (k,)
        final = {"parameters": parameters, **{key: history[key][-1] for key in ("train_loss", "test_loss", "test_recon", "test_kl")},
                 "test_mse": (grey_x - model.decode(mu)).square().mean().item(),
                 "active_units": (mu.var(0) > 0.01).sum().item(),                                                 # [Burda et al. 2016]
                 "nll": negative_log_likelihood(model, test_x, args.nll_samples) if args.nll_samples else None,
                 "knn_accuracy": knn_accuracy(train_mu, y, mu, test_y), "prior_distance": distance_from_prior(reparameterize(mu, logvar)),
                 "midpoint_precision": precision_coverage(model.decode((mu + mu.roll(-1, 0)) / 2), grey_x)[0]}
        final["precision"], final["coverage"] = precision_coverage(samples, grey_x)
        final["real_precision"], final["real_coverage"] = precision_coverage(x[:len(grey_x)], grey_x)
        # The least a reconstruction term can be, p(x|z) = x, and what the training set's mean image costs.
        cost = F.binary_cross_entropy if args.likelihood == "bernoulli" else lambda a, b, reduction: 4 * F.mse_loss(a, b, reduction=reduction)
        for key, image in ("floor", test_x), ("mean_image", model.mean.clamp(0.001, 0.999).expand_as(test_x)):
            final[key] = cost(image, test_x, reduction="sum").item() / len(test_x)

    handoff = checkpoints / f"ae_handoff_{args.latent_dim}.pt"
    try:
        ae = torch.load(handoff, map_location=device, weights_only=True)
    except Exception:  # missing or damaged: the comparison is left out either way
        ae = None
    if ae and (ae["config"]["dataset"], ae["config"]["limit"]) == (name, args.limit):
        final |= {"ae_test_mse": ae["final"]["test_mse"], "ae_knn_accuracy": ae["final"]["knn_accuracy"],
                  "ae_prior_distance": distance_from_prior(ae["codes"]), "ae_midpoint_precision": precision_coverage(ae["midpoints"], grey_x)[0]}
        final["ae_precision"], final["ae_coverage"] = precision_coverage(ae["prior"], grey_x)
        final["ae_fitted_precision"], final["ae_fitted_coverage"] = precision_coverage(ae["fitted"], grey_x)
    else:
        ae, flags = None, " --synthetic" * args.synthetic + " --validate" * args.validate + f" --limit {args.limit}" * bool(args.limit)
        print(f"No autoencoder to compare with. For one, first: python ae.py --latent-dim {args.latent_dim}{flags}")
    draw_figures(model, ae, name, grey_x, test_y, mu, kl, history, args, out)
    metrics = {"script": "vae.py", "args": vars(args), "dataset": name, "torch": torch.__version__, "device": device, "seconds": seconds,
               "images_per_second": args.epochs * len(x) / seconds, "history": history, "final": final}
    save(metrics, out / "vae_metrics.json")
    report(final, args)
    print(f"torch {torch.__version__}, {device}, {seconds:.0f} s of training; figures and vae_metrics.json are in {out}")
    return metrics


if __name__ == "__main__":
    # A notebook cell has no __file__, and its sys.argv is the kernel's: use the defaults there.
    main([] if "__file__" not in globals() else None)
