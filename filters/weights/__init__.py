"""Calibrations, as `studio calibrate` fits them: JSON, with a reliability diagram and a risk-coverage curve each."""
