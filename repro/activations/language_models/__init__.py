"""Language models: presets, loading, fetching, placing on devices, sites in the residual stream."""
