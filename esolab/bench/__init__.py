"""The race: one on-policy step of esolab beside what others do for the same work, on one machine."""
