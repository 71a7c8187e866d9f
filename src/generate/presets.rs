//! Head configurations of published models.
//!
//! Source: `num_attention_heads`, `num_key_value_heads` and `head_dim` (or `hidden_size / num_attention_heads`) of each
//! model's published `config.json`; `sliding_window` and `attn_logit_softcapping` where its attention uses them, the window
//! in some of its layers. With latent attention a row is `qk_nope_head_dim + qk_rope_head_dim` and a value row
//! `v_head_dim`; absorbed, as in decoding, `kv_lora_rank + qk_rope_head_dim` and `kv_lora_rank` of one KV head.

/// How one model's attention heads are laid out, and what else it asks of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// The model.
    pub name: &'static str,
    /// Query heads of a layer.
    pub num_q_heads: u32,
    /// KV heads of a layer.
    pub num_kv_heads: u32,
    /// Elements of a query or key row.
    pub head_dim: u32,
    /// Elements of a value row.
    pub v_head_dim: u32,
    /// Keys of its sliding window.
    pub window: Option<u32>,
    /// Cap of its logits.
    pub softcap: Option<f32>,
    /// Whether its heads have sinks.
    pub sinks: bool,
}

impl Preset {
    /// Query heads that share one KV head.
    pub fn q_per_kv(&self) -> u32 {
        self.num_q_heads / self.num_kv_heads
    }

    /// The preset of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|p| p.name == name)
    }
}

const fn preset(name: &'static str, num_q_heads: u32, num_kv_heads: u32, head_dim: u32) -> Preset {
    Preset {
        name,
        num_q_heads,
        num_kv_heads,
        head_dim,
        v_head_dim: head_dim,
        window: None,
        softcap: None,
        sinks: false,
    }
}

impl Preset {
    const fn v(self, v_head_dim: u32) -> Self {
        Self { v_head_dim, ..self }
    }

    const fn window(self, window: u32) -> Self {
        Self { window: Some(window), ..self }
    }

    const fn softcap(self, cap: f32) -> Self {
        Self { softcap: Some(cap), ..self }
    }

    const fn sinks(self) -> Self {
        Self { sinks: true, ..self }
    }
}

/// Every preset.
pub const PRESETS: &[Preset] = &[
    preset("codellama-34b", 64, 8, 128),
    preset("command-r-plus", 96, 8, 128),
    preset("deepseek-coder-1.3b", 16, 16, 128),
    preset("deepseek-coder-6.7b", 32, 32, 128),
    preset("deepseek-coder-33b", 56, 8, 128),
    preset("deepseek-v2-lite", 16, 16, 192).v(128),
    preset("deepseek-v2-lite absorbed", 16, 1, 576).v(512),
    preset("deepseek-v3", 128, 128, 192).v(128),
    preset("deepseek-v3 absorbed", 128, 1, 576).v(512),
    preset("falcon-7b", 71, 1, 64),
    preset("falcon-40b", 128, 8, 64),
    preset("gemma-2b", 8, 1, 256),
    preset("gemma-7b", 16, 16, 256),
    preset("gemma-2-2b", 8, 4, 256).window(4096).softcap(50.0),
    preset("gemma-2-9b", 16, 8, 256).window(4096).softcap(50.0),
    preset("gemma-2-27b", 32, 16, 128).window(4096).softcap(50.0),
    preset("gemma-3-1b", 4, 1, 256).window(512),
    preset("gemma-3-4b", 8, 4, 256).window(1024),
    preset("gemma-3-12b", 16, 8, 256).window(1024),
    preset("gemma-3-27b", 32, 16, 128).window(1024),
    preset("gpt-oss-20b", 64, 8, 64).window(128).sinks(),
    preset("gpt-oss-120b", 64, 8, 64).window(128).sinks(),
    preset("granite-3.0-2b", 32, 8, 64),
    preset("granite-3.0-8b", 32, 8, 128),
    preset("llama-2-7b", 32, 32, 128),
    preset("llama-2-13b", 40, 40, 128),
    preset("llama-2-70b", 64, 8, 128),
    preset("llama-3-8b", 32, 8, 128),
    preset("llama-3-70b", 64, 8, 128),
    preset("llama-3.1-405b", 128, 8, 128),
    preset("llama-3.2-1b", 32, 8, 64),
    preset("llama-3.2-3b", 24, 8, 128),
    preset("mistral-7b", 32, 8, 128).window(4096),
    preset("mistral-nemo-12b", 32, 8, 128),
    preset("mistral-large-2", 96, 8, 128),
    preset("mixtral-8x7b", 32, 8, 128),
    preset("mixtral-8x22b", 48, 8, 128),
    preset("olmo-7b", 32, 32, 128),
    preset("phi-2", 32, 32, 80),
    preset("phi-3-mini", 32, 32, 96),
    preset("phi-3-medium", 40, 10, 128),
    preset("phi-4", 40, 10, 128),
    preset("qwen2.5-0.5b", 14, 2, 64),
    preset("qwen2.5-1.5b", 12, 2, 128),
    preset("qwen2.5-3b", 16, 2, 128),
    preset("qwen2.5-coder-7b", 28, 4, 128),
    preset("qwen2.5-14b", 40, 8, 128),
    preset("qwen2.5-32b", 40, 8, 128),
    preset("qwen2.5-72b", 64, 8, 128),
    preset("qwen3-0.6b", 16, 8, 128),
    preset("qwen3-4b", 32, 8, 128),
    preset("qwen3-8b", 32, 8, 128),
    preset("qwen3-14b", 40, 8, 128),
    preset("qwen3-32b", 64, 8, 128),
    preset("smollm-135m", 9, 3, 64),
    preset("smollm-360m", 15, 5, 64),
    preset("starcoder", 48, 1, 128),
    preset("starcoder2-3b", 24, 2, 128).window(4096),
    preset("starcoder2-7b", 36, 4, 128).window(4096),
    preset("starcoder2-15b", 48, 4, 128).window(4096),
    preset("tinyllama-1.1b", 32, 4, 64),
    preset("yi-6b", 32, 4, 128),
    preset("yi-34b", 56, 8, 128),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_preset_is_a_grouped_query_head_layout() {
        for p in PRESETS {
            assert_eq!(p.num_q_heads % p.num_kv_heads, 0, "{p:?}");
            assert_eq!(p.q_per_kv() * p.num_kv_heads, p.num_q_heads, "{p:?}");
            assert!(p.head_dim.is_multiple_of(8) && p.v_head_dim.is_multiple_of(8), "{p:?}");
            assert!(p.head_dim <= 256 || (p.head_dim, p.v_head_dim) == (576, 512), "{p:?}");
            assert!(p.v_head_dim <= p.head_dim, "{p:?}");
        }
    }

    #[test]
    fn names_are_distinct_and_found() {
        let names: HashSet<_> = PRESETS.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), PRESETS.len());
        assert_eq!(Preset::named("qwen2.5-coder-7b").map(Preset::q_per_kv), Some(7));
        assert_eq!(Preset::named("tinyllama-1.1b").map(Preset::q_per_kv), Some(8));
        assert_eq!(Preset::named("no such model"), None);
    }

    #[test]
    fn the_groups_that_are_no_power_of_two_are_there() {
        for group in [3, 5, 6, 7, 9, 12, 48, 71] {
            assert!(PRESETS.iter().any(|p| p.q_per_kv() == group), "{group}");
        }
    }
}
