"""The ecosystem's own objects, with our labels: ART in both directions, and torchattacks."""
