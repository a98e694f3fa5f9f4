"""LocA-SAE (section 6 of the paper): its four training phases, as stated and as released."""
