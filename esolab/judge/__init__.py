"""The win rate of a run's answers over another's, or over the references, by a judge: `python -m esolab.judge`."""
