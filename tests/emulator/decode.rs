//! A decode-attention kernel as NVRTC compiled it, against attention in f64.

use attnfuzz::emulator::{Initialised, Launch, Memory, Options, Region, RegionId, Stats, Stop, launch};
use attnfuzz::float::Dtype;
use attnfuzz::ptx;

pub(super) const SM75: &str = include_str!("subject/decode_sm75.ptx");
pub(super) const SM80: &str = include_str!("subject/decode_sm80.ptx");

const CUDA13: &str = include_str!("subject/decode_cuda13.ptx");

#[test]
fn attention_of_a_real_kernel_is_right() {
    for (text, entry, dtype, dim) in [
        (SM75, "dec_f32_128", Dtype::F32, 128),
        (SM75, "dec_f16_128", Dtype::F16, 128),
        (SM75, "dec_bf16_128", Dtype::Bf16, 128),
        (SM75, "dec_f32_64", Dtype::F32, 64),
        (SM80, "dec_f32_128", Dtype::F32, 128),
        (SM80, "dec_f16_128", Dtype::F16, 128),
        (SM80, "dec_bf16_128", Dtype::Bf16, 128),
        (CUDA13, "dec_f32_128", Dtype::F32, 128),
        (CUDA13, "dec_f16_128", Dtype::F16, 128),
        (CUDA13, "dec_bf16_128", Dtype::Bf16, 128),
    ] {
        let program = ptx::parse(text).unwrap().lower(entry).unwrap();
        for (lens, heads, kv_heads, seed) in [(vec![0, 1, 33], 6, 2, 1), (vec![70], 28, 4, 2)] {
            let case = Case { lens, heads, kv_heads, dim, dtype };
            let (error, stats) = case.worst_error(&program, seed);
            let limit = match dtype {
                Dtype::F32 => 2e-6,
                Dtype::F16 => 1e-3,
                Dtype::Bf16 => 6e-3,
            };
            assert!(error < limit, "{entry}: {error}");
            assert!(stats.lane_instructions > 0);
        }
    }
}

#[test]
fn approximate_functions_err_by_the_seed_and_within_reason() {
    let program = ptx::parse(SM80).unwrap().lower("dec_f32_64").unwrap();
    let case = Case { lens: vec![9], heads: 2, kv_heads: 1, dim: 64, dtype: Dtype::F32 };
    let out = |perturb: Option<u64>| {
        let mut setup = case.set_up(1);
        setup.options.perturb = perturb;
        setup.launch(&program, 1);
        let bytes = setup.memory.bytes(setup.out).to_vec();
        bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    let exact = out(None);
    let moved = out(Some(4));
    assert_eq!(moved, out(Some(4)));
    assert_ne!(moved, exact);
    assert_ne!(moved, out(Some(5)));
    assert!(exact.iter().zip(&moved).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn coverage_tells_cases_apart() {
    let program = ptx::parse(SM80).unwrap().lower("dec_f32_64").unwrap();
    let reach = |lens: &[usize]| {
        let case = Case { lens: lens.to_vec(), heads: 2, kv_heads: 1, dim: 64, dtype: Dtype::F32 };
        let mut setup = case.set_up(1);
        setup.options.coverage = true;
        setup.launch(&program, 1).coverage
    };
    let mut all = reach(&[5]);
    assert!(all.count() > 10);
    assert_eq!(all.merge(&reach(&[5])), 0);
    // An empty request takes ways that no other does.
    assert!(all.merge(&reach(&[0])) > 0);
    assert_eq!(all.points().count(), all.count());
}

#[test]
fn the_same_seed_gives_the_same_run_whatever_ran_before() {
    let module = ptx::parse(SM80).unwrap();
    let program = module.lower("dec_f16_128").unwrap();
    let case = Case { lens: vec![7, 40], heads: 4, kv_heads: 2, dim: 128, dtype: Dtype::F16 };
    let mut fresh = case.set_up(3);
    let first = fresh.launch(&program, 5);
    let mut used = case.set_up(3);
    used.launch(&program, 9);
    used.launch(&module.lower("dec_bf16_128").unwrap(), 1);
    assert_eq!(used.launch(&program, 5), first);
    assert_eq!(used.memory.bytes(used.out), fresh.memory.bytes(fresh.out));
}

#[test]
fn launches_the_device_would_refuse_are_refused() {
    let program = ptx::parse(SM80).unwrap().lower("dec_f32_64").unwrap();
    let params = vec![0; program.param_bytes()];
    let good = Launch { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared_bytes: 0, params: &params };
    let bad = [
        Launch { grid: [0, 1, 1], ..good },
        Launch { grid: [1, 65536, 1], ..good },
        Launch { block: [1025, 1, 1], ..good },
        Launch { block: [1, 1, 65], ..good },
        Launch { dynamic_shared_bytes: 1 << 20, ..good },
        Launch { params: &params[1..], ..good },
    ];
    for shape in bad {
        let stop = launch(&program, &mut Memory::new(), &shape, &Options::default());
        assert!(matches!(stop, Err(Stop::BadLaunch(_))), "{stop:?}");
    }
}

/// A decoding step of the kernel in `subject/decode.cu`.
pub(super) struct Case {
    pub(super) lens: Vec<usize>,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    pub(super) dtype: Dtype,
}

/// A case's tensors, in memory and as numbers.
pub(super) struct Setup {
    memory: Memory,
    pub(super) options: Options,
    out: RegionId,
    params: Vec<u8>,
    grid: [u32; 3],
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    capacity: usize,
    scale: f32,
}

impl Setup {
    pub(super) fn launch(&mut self, program: &ptx::Program, seed: u64) -> Stats {
        let shape = Launch { grid: self.grid, block: [128, 1, 1], dynamic_shared_bytes: 0, params: &self.params };
        let options = Options { schedule_seed: seed, ..self.options };
        launch(program, &mut self.memory, &shape, &options).unwrap_or_else(|stop| panic!("{stop}"))
    }
}

impl Case {
    pub(super) fn set_up(&self, seed: u64) -> Setup {
        let (batch, dim) = (self.lens.len(), self.dim);
        let capacity = self.lens.iter().copied().max().unwrap_or(0) + 3;
        let mut random = seed;
        let mut tensor = |count: usize| -> Vec<f64> {
            (0..count)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    self.dtype.round((random >> 40) as f64 / f64::from(1 << 23) - 1.0)
                })
                .collect()
        };
        let q = tensor(batch * self.heads * dim);
        let k = tensor(batch * capacity * self.kv_heads * dim);
        let v = tensor(batch * capacity * self.kv_heads * dim);
        let scale = 1.0 / (dim as f32).sqrt();
        let mut memory = Memory::new();
        let encode = |values: &[f64]| -> Vec<u8> {
            let size = self.dtype.size_bytes();
            values.iter().flat_map(|x| self.dtype.encode(*x).to_le_bytes().into_iter().take(size)).collect()
        };
        let mut map = |name: &str, bytes: Vec<u8>, writable: bool| {
            let initialised = if writable { Initialised::None } else { Initialised::All };
            let id = memory.map(Region { name: name.into(), bytes, initialised, writable, misalign: 0 });
            (id, memory.address(id))
        };
        let (_, q_at) = map("q", encode(&q), false);
        let (_, k_at) = map("k", encode(&k), false);
        let (_, v_at) = map("v", encode(&v), false);
        let (out, out_at) = map("out", vec![0; q.len() * self.dtype.size_bytes()], true);
        let lens: Vec<u8> = self.lens.iter().flat_map(|n| (*n as i32).to_le_bytes()).collect();
        let (_, lens_at) = map("lens", lens, false);
        let mut params = Vec::new();
        for address in [q_at, k_at, v_at, out_at, lens_at] {
            params.extend(address.to_le_bytes());
        }
        for n in [self.heads, self.kv_heads, capacity] {
            params.extend((n as i32).to_le_bytes());
        }
        params.extend(scale.to_le_bytes());
        Setup {
            memory,
            options: Options::default(),
            out,
            params,
            grid: [self.heads as u32, batch as u32, 1],
            q,
            k,
            v,
            capacity,
            scale,
        }
    }

    fn worst_error(&self, program: &ptx::Program, seed: u64) -> (f64, Stats) {
        let mut setup = self.set_up(seed);
        let stats = setup.launch(program, seed);
        let Setup { memory, out, q, k, v, capacity, scale, .. } = &setup;
        assert_eq!(memory.written(*out).count(), memory.bytes(*out).len());
        let dim = self.dim;
        let size = self.dtype.size_bytes();
        let found: Vec<f64> = memory
            .bytes(*out)
            .chunks(size)
            .map(|b| self.dtype.decode(b.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte))))
            .collect();
        let mut worst = 0f64;
        for (b, len) in self.lens.iter().enumerate() {
            for h in 0..self.heads {
                let kv = h / (self.heads / self.kv_heads);
                let row = |t: &[f64], j: usize| t[((b * capacity + j) * self.kv_heads + kv) * dim..][..dim].to_vec();
                let q = &q[(b * self.heads + h) * dim..][..dim];
                let scores: Vec<f64> = (0..*len)
                    .map(|j| row(k, j).iter().zip(q).map(|(k, q)| k * q).sum::<f64>() * f64::from(*scale))
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for d in 0..dim {
                    let weighted = (0..*len).map(|j| (scores[j] - max).exp() * row(v, j)[d]).sum::<f64>();
                    let expected = if *len == 0 { 0.0 } else { weighted / sum };
                    worst = worst.max((found[(b * self.heads + h) * dim + d] - expected).abs());
                }
            }
        }
        (worst, stats)
    }
}
