"""PANet: few-shot segmentation by prototypes (Wang et al. 2019)."""
