"""The API, one file for each part: classification, the Open Inference Protocol and their descriptions."""
