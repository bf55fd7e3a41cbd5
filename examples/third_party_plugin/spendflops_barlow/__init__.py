"""Barlow Twins, a pre-training method for spendflops."""
