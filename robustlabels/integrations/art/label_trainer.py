"""placeholder"""

LabelTrainer = None
