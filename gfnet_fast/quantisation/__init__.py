"""Post-training quantisation: a model's networks in int8, made with NNCF, run by OpenVINO."""
