use attnfuzz::emulator::*;
use attnfuzz::ptx;
fn bytes(v: &[f32]) -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() }
#[test]
fn gqa_tmp() {
    let path = std::env::var("GQA").unwrap_or("/work/wt/ker/kernels/gqa_decode/kernel.ptx".into());
    let module = ptx::parse(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{path} {e}"));
    let program = module.lower("gqa_decode_f32").unwrap_or_else(|e| panic!("{path} {e}"));
    for (pasts, kvh, g, d, cap) in [(vec![0usize, 1, 40], 2usize, 3usize, 96usize, 64usize), (vec![100], 4, 7, 128, 128), (vec![31,32,33], 1, 9, 65, 40)] {
        let b = pasts.len(); let hq = kvh * g;
        let mut s = 1u64;
        let mut t = |n: usize| -> Vec<f32> { (0..n).map(|_| { s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (s >> 40) as f32 / (1 << 23) as f32 - 1.0 }).collect() };
        let q = t(b*hq*d); let kn = t(b*kvh*d); let vn = t(b*kvh*d); let mut kc = t(b*kvh*cap*d); let mut vc = t(b*kvh*cap*d);
        let mut m = Memory::new();
        let mut map = |name: &str, by: Vec<u8>, init: Initialised, w| { let id = m.map(Region { name: name.into(), bytes: by, initialised: init, writable: w, misalign: 4 }); (id, m.address(id)) };
        let cache_init = || { let mut bm = BitMap::new(b*kvh*cap*d*4, false); for r in 0..b { for h in 0..kvh { bm.insert(((r*kvh+h)*cap)*d*4, pasts[r]*d*4); } } Initialised::These(bm) };
        let (_, qa) = map("q", bytes(&q), Initialised::All, false);
        let (_, kna) = map("k_new", bytes(&kn), Initialised::All, false);
        let (_, vna) = map("v_new", bytes(&vn), Initialised::All, false);
        let (_, kca) = map("k_cache", bytes(&kc), cache_init(), true);
        let (_, vca) = map("v_cache", bytes(&vc), cache_init(), true);
        let (o, oa) = map("out", vec![0; b*hq*d*4], Initialised::None, true);
        let (_, pa) = map("past_len", pasts.iter().flat_map(|p| (*p as i32).to_le_bytes()).collect(), Initialised::All, false);
        let mut p = vec![];
        for a in [qa, kna, vna, kca, vca, oa, pa] { p.extend(a.to_le_bytes()); }
        for x in [kvh, g, d] { p.extend((x as i32).to_le_bytes()); }
        while p.len() % 8 != 0 { p.push(0); }
        for x in [kvh*cap*d, cap*d, d] { p.extend((x as i64).to_le_bytes()); }
        let scale = 1.0 / (d as f32).sqrt(); p.extend(scale.to_le_bytes());
        let l = Launch { grid: [(b*kvh) as u32, g.div_ceil(8) as u32, 1], block: [128, 1, 1], dynamic_shared_bytes: 0, params: &p };
        let t0 = std::time::Instant::now();
        let r0 = launch(&program, &mut m, &l, &Options::default()); let mut n = 0; while std::env::var("LOOP").is_ok() && t0.elapsed().as_secs() < 2 { n += launch(&program, &mut m, &l, &Options::default()).unwrap().lane_instructions; } if n > 0 { eprintln!("LOOP {:.3e}", n as f64 / t0.elapsed().as_secs_f64()); } let r = r0;
        let st = match r { Ok(s) => s, Err(e) => { eprintln!("STOP {path} {e}"); return; } };
        let dt = t0.elapsed().as_secs_f64();
        let out: Vec<f32> = m.bytes(o).chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        let mut worst = 0f64;
        for r in 0..b { for h in 0..kvh { for x in 0..d { kc[((r*kvh+h)*cap+pasts[r])*d+x] = kn[(r*kvh+h)*d+x]; vc[((r*kvh+h)*cap+pasts[r])*d+x] = vn[(r*kvh+h)*d+x]; } } }
        for r in 0..b { for h in 0..hq { let kv = h/g; let n = pasts[r]+1;
            let sc: Vec<f64> = (0..n).map(|j| (0..d).map(|x| q[(r*hq+h)*d+x] as f64 * kc[((r*kvh+kv)*cap+j)*d+x] as f64).sum::<f64>() * scale as f64).collect();
            let mx = sc.iter().cloned().fold(f64::MIN, f64::max); let sm: f64 = sc.iter().map(|s| (s-mx).exp()).sum();
            for x in 0..d { let e: f64 = (0..n).map(|j| (sc[j]-mx).exp() * vc[((r*kvh+kv)*cap+j)*d+x] as f64).sum::<f64>() / sm; worst = worst.max((e - out[(r*hq+h)*d+x] as f64).abs()); } } }
        eprintln!("{path} worst {worst:.2e} lanes/s {:.3e} us {:.1} written {}", st.lane_instructions as f64 / dt, dt*1e6, m.written(o).count() == out.len()*4);
    }
}
