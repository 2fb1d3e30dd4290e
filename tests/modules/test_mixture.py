"""Mixtures that a network describes: densities and noise predictions belong together."""

from __future__ import annotations

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmarl_ssd.modules import MixtureScore, VPNoiseSchedule
from benchmarl_ssd.modules.mixture import GaussianMixture


def some(*batch: int, components: int = 4, size: int = 3) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    shape = (*batch, GaussianMixture.n_features(components, size))
    return GaussianMixture.from_features(torch.randn(shape, generator=generator), components)


def test_density_is_the_noised_mixtures():
    mixture, value = some(5), torch.randn(5, 3)
    deviation = (mixture.variance + 0.2**2).sqrt()
    parts = Independent(Normal(mixture.mean, deviation), 1)
    expected = MixtureSameFamily(Categorical(logits=mixture.log_weight), parts).log_prob(value)
    torch.testing.assert_close(mixture.log_density(value, noise=0.2), expected)


def test_predicted_noise_is_the_densitys_score():
    mixture, schedule = some(5), VPNoiseSchedule()
    for t in (0.05, 0.3, 0.9):
        alpha, sigma = (f(torch.tensor(t)) for f in (schedule.alpha, schedule.sigma))
        noised = torch.randn(5, 3, requires_grad=True)
        widened = GaussianMixture(
            alpha * mixture.mean, alpha**2 * mixture.variance, mixture.log_weight
        )
        (score,) = torch.autograd.grad(widened.log_density(noised, float(sigma)).sum(), noised)
        found = mixture.predicted_noise(noised, alpha, sigma)
        torch.testing.assert_close(found, -sigma * score, rtol=1e-4, atol=1e-5)


def test_it_agrees_with_the_exact_scores_of_known_modes():
    modes = torch.rand(3, 1, 2) * 1.6 - 0.8
    score = MixtureScore(modes, noise=0.1)
    mixture = GaussianMixture(modes[:, 0], torch.full((3, 2), 0.01), torch.full((3,), 1 / 3).log())
    noised, t = torch.randn(1, 4, 6, 2), torch.rand(1, 4, 6, 1)
    context = score.encode(torch.zeros(1, 6, 0), torch.zeros(6, 2), torch.zeros(1, 1, 2))
    found = mixture.predicted_noise(noised, score.schedule.alpha(t), score.schedule.sigma(t))
    torch.testing.assert_close(found, score.denoise(context, noised, t), rtol=1e-4, atol=1e-5)


def test_a_mean_can_be_at_a_bound():
    features = torch.zeros(GaussianMixture.n_features(1, 1))
    features[0] = 2.4
    assert GaussianMixture.from_features(features, 1).mean.item() > 1.0
