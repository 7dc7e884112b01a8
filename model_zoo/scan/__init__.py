"""Measure many models unattended: isolated, resumable, on one machine or a cluster."""
