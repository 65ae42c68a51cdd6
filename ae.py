"""Autoencoder: squeeze a digit through 32 numbers and get it back.

An encoder e maps an image x (MNIST, 28 x 28 pixels) to a code z = e(x) of k = 32 numbers. A
decoder d maps the code back to an image d(z). Both are trained so that little is lost:

    minimise  1/N sum_n || x_n - d(e(x_n)) ||^2

The squared error is summed over the 784 pixels, which lie in [0, 1], and averaged over the
N images [after Hinton & Salakhutdinov 2006, who minimise cross-entropy].

    python ae.py

    Epoch 30/30 - Loss:   1.738 - Test:   2.559
    Test error per pixel: autoencoder 0.00326, PCA 0.01683, mean image 0.06747
    Right label by 5 nearest neighbours: codes 98.0%, PCA 97.6%, pixels 96.9%
"""

import argparse
import math
import sys
import time
from os.path import expanduser

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import MultivariateNormal

from common import device, load_digits, output_folder, plot_curves, plot_images, progress
from common import report_unwritten, save_metrics, save_weights, scatter_digits


# ------------------------------------------------------- model
def mlp(*sizes):
    """Linear layers separated by SiLU (a smooth ReLU). (B, sizes[0]) -> (B, sizes[-1])"""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])  # none after the last


class Autoencoder(nn.Module):
    """784 -> 768 -> 512 -> latent_dim -> 512 -> 768 -> 784, for hidden = [768, 512]"""

    def __init__(self, mean, hidden, latent_dim):
        super().__init__()
        self.register_buffer("mean", mean)  # the mean training image (784,), not trained
        self.encoder = mlp(784, *hidden, latent_dim)
        self.decoder = mlp(latent_dim, *reversed(hidden), 784)
        # Start near the mean image, so the decoder only has to learn how digits differ from it:
        # sigmoid(logit(mean)) = mean. eps keeps it in [0.001, 0.999]: the logit of 0 is infinite.
        self.decoder[-1].bias.data.copy_(mean.logit(eps=0.001))

    def encode(self, x):
        """Images (B, 784) in [0, 1] -> codes (B, k)"""
        return self.encoder(x - self.mean)

    def decode(self, z):
        """Codes (..., k) -> images (..., 784) in [0, 1]"""
        return torch.sigmoid(self.decoder(z))


# -------------------------------------------------------- loss
def squared_error(x, x_hat):
    """Summed over the pixels of each image. x (B, 784), x_hat (B, 784) or (784,) -> (B,)"""
    return (x - x_hat).square().sum(1)


# ------------------------------------------------------- train
def train(model, x, test_x, args):
    """Train on x (N, 784). Returns {name: [one value per epoch]} and the seconds of training."""
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)  # fused: faster
    # The learning rate rises to --lr, then falls to almost 0 [Smith & Topin 2017]
    steps = max(10, args.epochs * math.ceil(len(x) / args.batch_size))  # fewer leave no rise
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        opt, args.lr, total_steps=steps, cycle_momentum=False)
    history, seconds = {"train_sse": [], "test_sse": []}, 0.0

    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        model.train()
        total = 0.0
        # x is one tensor in memory: shuffled indices do what a DataLoader would.
        batches = torch.randperm(len(x), device=x.device).split(args.batch_size)

        for idx in progress(batches, epoch, args.epochs):
            batch = x[idx]  # (B, 784)
            z = model.encode(batch)  # (B, k)
            x_hat = model.decode(z)  # (B, 784)
            loss = squared_error(batch, x_hat).mean()

            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            total += len(batch) * loss.detach()  # .item() would make the CPU wait for a GPU

        train_sse = float(total) / len(x)  # the mean over the epoch
        seconds += time.perf_counter() - start
        test_sse = evaluate(model, test_x)
        history["train_sse"].append(train_sse)
        history["test_sse"].append(test_sse)
        print(f"Epoch {epoch:2d}/{args.epochs} - Loss: {train_sse:7.3f} - Test: {test_sse:7.3f}",
              flush=True)
        if not math.isfinite(train_sse + test_sse):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")
    return history, seconds


# ---------------------------------------------------- evaluate
@torch.no_grad()
def evaluate(model, x):
    """Squared error of reconstructing images x (N, 784): sum over pixels, mean over images."""
    model.eval()
    return squared_error(x, model.decode(model.encode(x))).mean().item()


def pca(x, k):
    """Principal component analysis: mean (784,) of x (N, 784), k principal directions (784, k).

    No linear autoencoder with k numbers has a smaller squared error on x. PCA's codes are
    (x - mean) @ directions, its reconstructions mean + codes @ directions.T.
    """
    covariance = x.T.cov().cpu()  # (784, 784); on the CPU, as eigh is missing on some GPUs
    # The directions are the eigenvectors with the largest eigenvalues, which eigh puts last.
    directions = torch.linalg.eigh(covariance).eigenvectors[:, -k:]
    return x.mean(0), directions.to(x.device)


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


def fitted_codes(z, n):
    """n draws from the Gaussian that has the mean and covariance of codes z (N, k). (n, k)"""
    z_cpu = z.cpu().double()  # on the CPU, as MPS lacks double precision
    covariance = torch.atleast_2d(z_cpu.T.cov())  # (k, k); for k = 1 cov() is a scalar
    covariance += 1e-6 * torch.eye(z.shape[1])  # in case it is singular
    return MultivariateNormal(z_cpu.mean(0), covariance).sample([n]).float().to(z.device)


def measure_codes(model, z, x, y, test_z, test_x, test_y):
    """Reconstructions and codes of the autoencoder, beside those of PCA.

    Training images x (N, 784) have codes z (N, k) and labels y (N,).
    """
    mean, directions = pca(x, z.shape[1])
    pca_z, pca_test_z = (x - mean) @ directions, (test_x - mean) @ directions
    pca_x_hat = mean + pca_test_z @ directions.T

    test_sse = evaluate(model, test_x)
    return {
        "train_sse": evaluate(model, x),  # of the final weights
        "test_sse": test_sse,
        "test_mse": test_sse / 784,
        "pca_mse": squared_error(test_x, pca_x_hat).mean().item() / 784,
        "mean_image_mse": squared_error(test_x, mean).mean().item() / 784,
        "knn_accuracy": accuracy(nearest_labels(test_z, z, y), test_y),
        "pca_knn_accuracy": accuracy(nearest_labels(pca_test_z, pca_z, y), test_y),
        "pixel_knn_accuracy": accuracy(nearest_labels(test_x, x, y), test_y),
    }


def measure_images(model, z, test_z, test_x, digits, labels):
    """Agreement and coverage of decoded codes, and of real digits.

    Agreement is judged by all training digits (N, 784) with labels (N,), also those that --limit
    left out. Coverage is judged by the test images (M, 784). z (n, k) are training codes.
    """
    samples = model.decode(torch.randn_like(test_z))  # nothing in the loss puts codes there
    fitted = model.decode(fitted_codes(z, len(test_z)))
    midpoints = model.decode((test_z + test_z.roll(-1, 0)) / 2)  # between an image and the next
    blends = (test_x + test_x.roll(-1, 0)) / 2  # the same without a model: a double exposure
    return {
        "agreement": agreement(nearest_labels(samples, digits, labels)),
        "fitted_agreement": agreement(nearest_labels(fitted, digits, labels)),
        "midpoint_agreement": agreement(nearest_labels(midpoints, digits, labels)),
        "blend_agreement": agreement(nearest_labels(blends, digits, labels)),
        "agreement_real": agreement(nearest_labels(test_x, digits, labels)),
        "coverage": coverage(samples, test_x),
        "fitted_coverage": coverage(fitted, test_x),
        "coverage_real": coverage(digits[: len(test_x)], test_x),
    }


# ----------------------------------------------------- figures
def draw_reconstructions(model, test_z, test_x, test_y, title, out):
    """The first ten test images, and the ten with the largest error."""
    x_hat = model.decode(test_z)
    errors = squared_error(test_x, x_hat)
    labels = ["test image", "autoencoder"]
    title = f"{title}: squared error and label below; mean error of all {errors.mean():.1f}"
    for name, idx in [("reconstructions", torch.arange(10)), ("worst", errors.topk(10).indices)]:
        rows = [test_x[idx], x_hat[idx]]
        notes = [f"{errors[i]:.1f}\nlabel {test_y[i]}" for i in idx]
        plot_images(out / f"ae_{name}.png", rows, title, labels, notes)


def draw_samples(model, z, title, out):
    """Decoded draws from N(0, I), and from a Gaussian fitted to the codes z (N, k)."""
    noise = torch.randn(32, z.shape[1]).to(z.device)
    draws = torch.cat([noise, fitted_codes(z, 32)])
    labels = 4 * ["N(0, I)"] + 4 * ["fitted"]
    title = f"{title}: decoded draws from N(0, I)\nand from a Gaussian fitted to the codes"
    plot_images(out / "ae_prior_samples.png", model.decode(draws).split(8), title, labels)


def draw_interpolations(model, z, y, title, out):
    """Decoded codes on the lines between five pairs of test images: z (10, k), labels y (10,)."""
    t = torch.linspace(0, 1, 10, device=z.device)[:, None]
    rows = [model.decode(torch.lerp(z[i], z[i + 1], t)) for i in range(0, 10, 2)]
    labels = [f"{a} to {b}" for a, b in y.view(5, 2).tolist()]
    plot_images(out / "ae_interpolation.png", rows, f"{title}: interpolated codes", labels)


# ------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    # Data
    p.add_argument("--data", type=expanduser, default="data", help="where MNIST is or goes to")
    p.add_argument("--synthetic", action="store_true", help="drawn digits, no download")
    p.add_argument("--limit", type=int, default=60_000, help="train on at most this many images")
    p.add_argument("--validate", action="store_true", help="test on a sixth of the training set")
    # Model
    p.add_argument("--latent-dim", type=int, default=32, metavar="K", help="numbers in a code")
    p.add_argument("--hidden", type=int, nargs="+", default=[768, 512], help="widths of layers")
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
    if args.limit < 10:
        p.error("--limit must be at least 10")
    return args


def report(final, seconds, args, out):
    print(f"Test error per pixel: autoencoder {final['test_mse']:.5f}, "
          f"PCA {final['pca_mse']:.5f}, mean image {final['mean_image_mse']:.5f}")
    print(f"Right label by 5 nearest neighbours: codes {final['knn_accuracy']:.1%}, "
          f"PCA {final['pca_knn_accuracy']:.1%}, pixels {final['pixel_knn_accuracy']:.1%}")
    print(f"Samples (real digits): agreement {final['agreement']:.0%} "
          f"({final['agreement_real']:.0%}), coverage {final['coverage']:.0%} "
          f"({final['coverage_real']:.0%})")
    print(f"torch {torch.__version__}, {args.device}, {seconds:.0f} s of training; "
          f"see {str(out)!a}")


def main(argv=None):
    """Train, measure, draw. Returns the metrics, as written to ae_metrics.json."""
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # numbers nearer to 0 than 1e-38, slow on a CPU, become 0

    # Data
    data = load_digits(args.data, args.synthetic, args.validate, args.device)
    name, digits, labels, test_x, test_y = data
    x, y = digits[: args.limit], labels[: args.limit]
    out = output_folder(args.out, name)
    title = f"Autoencoder, {name}, k = {args.latent_dim}"
    print(f"{name}: {len(x):,} training and {len(test_x):,} test images, on {args.device}")
    plot_images(out / "ae_data.png", test_x[:50].split(10), f"{name}: test images")

    # Train
    model = Autoencoder(x.mean(0), args.hidden, args.latent_dim).to(args.device)
    history, seconds = train(model, x, test_x, args)
    save_weights({"args": vars(args), "model": model.state_dict()}, out / "ae.pt")
    model.requires_grad_(False)  # only measured from here on

    # Measure
    print("Measuring and drawing, which may take minutes ...")
    z, test_z = model.encode(x), model.encode(test_x)  # (N, k), (M, k)
    final = {"parameters": sum(p.numel() for p in model.parameters())}
    final |= measure_codes(model, z, x, y, test_z, test_x, test_y)
    final |= measure_images(model, z, test_z[:5000], test_x[:5000], digits, labels)
    metrics = save_metrics(out / "ae_metrics.json", args, name, seconds, history, final)

    # Draw
    curves = {"training": history["train_sse"], "test": history["test_sse"]}
    curves["PCA, test"] = 784 * final["pca_mse"]  # a flat line
    plot_curves(out / "ae_loss.png", {"squared error per image": curves}, title)
    draws = torch.randn(10, args.latent_dim).to(args.device)
    scatter_digits(out / "ae_latent.png", test_z, test_y, f"{title}: codes",
                   draws=draws, decoded=model.decode(draws))
    draw_reconstructions(model, test_z, test_x, test_y, title, out)
    draw_samples(model, z, title, out)
    draw_interpolations(model, test_z[:10], test_y[:10], title, out)

    report(final, seconds, args, out)
    report_unwritten()
    return metrics


if __name__ == "__main__":
    main()
