"""A pipeline of random networks, small enough to score in seconds."""

import torch

from lavin import STVAE, JDiT, LavinPipeline

SIZE = 32


def make_pipeline(attention="causal", num_layers=1, **settings):
    torch.manual_seed(0)
    stvae = STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    jdit = JDiT(latent_channels=4, hidden_size=64, num_layers=num_layers, num_heads=2, attention=attention)
    for parameter in jdit.parameters():  # a fresh J-DiT predicts zero
        torch.nn.init.normal_(parameter, std=0.1)
    pipeline = LavinPipeline(stvae.eval(), jdit.eval(), sample_size=SIZE, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
