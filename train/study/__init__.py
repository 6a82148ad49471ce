"""The study files: what the app's "Look inside" needs of a network, and `model.onnx` does not tell.

`model.study.onnx` returns the maps of the first convolution, of a middle and of the last stage and, where a network
pools its last map to one value for each channel, the class activation maps. Its metadata hold the filters and the
receptive fields. The server runs it only while somebody looks.
"""
