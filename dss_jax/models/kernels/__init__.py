"""Attention kernels, and the choice and proof of one for a device."""
