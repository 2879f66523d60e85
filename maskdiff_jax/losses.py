"""Losses: each one masked and normalised in one visible way; plain arrays in, one number out."""
