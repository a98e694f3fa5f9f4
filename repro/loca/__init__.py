"""LocA-SAE (section 6 of the paper): training in four phases, the released rule beside the stated one."""
