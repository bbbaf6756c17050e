"""Text encoders as ONNX graphs: export with a parity gate, layouts for other servers."""
