"""Means, intervals and paired tests: how sure a difference, a share or an agreement is, and what that is in words."""

from esolab.stats.agreement import WORTH, cohens_kappa, length_controlled
from esolab.stats.comparison import Comparison, compare, mean_and_deviation, sentence
from esolab.stats.intervals import CHUNK, Interval, paired_bootstrap, verdict, wilson
from esolab.stats.power import Components, components, prompts_needed, seeds_needed
from esolab.stats.resampling import bca, bca_limits, holm, resampled_means, sign_flip, stretch

__all__ = [
    "CHUNK",
    "WORTH",
    "Comparison",
    "Components",
    "Interval",
    "bca",
    "bca_limits",
    "cohens_kappa",
    "compare",
    "components",
    "holm",
    "length_controlled",
    "mean_and_deviation",
    "paired_bootstrap",
    "prompts_needed",
    "resampled_means",
    "seeds_needed",
    "sentence",
    "sign_flip",
    "stretch",
    "verdict",
    "wilson",
]
