"""Layers: attention, blocks, positions, patch embedding, pooling, Linear accumulating into float32."""
