//! More of the table: forms that compilers seldom write, and what code in assembly uses.

use super::table::ATOMIC;

/// Families as in [`super::table::FAMILIES`].
pub(crate) const FAMILIES: &[(u32, &str, &str)] = &[
    // Carry chains.
    (70, "add.cc.{s32,s64} %d0, %a0, %a1; addc.cc.s32 %d1, %a2, %a3; addc.u32 %d2, 0, 0;", "T u32 u32 = T T u32 u32"),
    (70, "sub.cc.s32 %d0, %a0, %a1; subc.cc.s32 %d1, %a2, %a3; subc.s32 %d2, 0, 0;", "T T T = T T T T"),
    (70, "sub.cc.u64 %d0, %a0, %a1; subc.cc.u64 %d1, %a2, %a3; subc.u64 %d2, 0, 0;", "T T T = T T T T"),
    (70, "sub.cc.s64 %d0, %a0, %a1; subc.cc.s64 %d1, %a2, %a3; subc.s64 %d2, 0, 0;", "T T T = T T T T"),
    (70, "mad.lo.cc.s32 %d0, %a0, %a1, %a2; madc.hi.s32 %d1, %a0, %a1, %a3;", "T T = T T T T"),
    (70, "mad.lo.cc.u64 %d0, %a0, %a1, %a2; madc.hi.u64 %d1, %a0, %a1, %a3;", "T T = T T T T"),
    (70, "mad.lo.cc.s64 %d0, %a0, %a1, %a2; madc.hi.s64 %d1, %a0, %a1, %a3;", "T T = T T T T"),
    (70, "mad.hi.cc.u32 %d0, %a0, %a1, %a2; madc.lo.u32 %d1, %a0, %a1, %a3;", "T T = T T T T"),
    (70, "mad.hi.cc.s64 %d0, %a0, %a1, %a2; madc.lo.s64 %d1, %a0, %a1, %a3;", "T T = T T T T"),
    // Logic.
    (70, "lop3.{or,and}.b32 %d0|%d1, %a0, %a1, %a2, {0x00,0x80,0x96,0x01}, %a3;", "b32 pred = b32 b32 b32 pred"),
    (70, "lop3.and.b32 %d0|%d1, %a0, %a1, %a2, 0x80, !%a3;", "b32 pred = b32 b32 b32 pred"),
    (70, "mov.{b16,u16,s16,b32,u32,s32,f32,b64,u64,s64,f64,pred}", "T = T"),
    // Comparison and selection.
    (70, "setp.{lt,ge}.{and,or,xor}{,.ftz}.f16", "pred = T T pred"),
    (70, "setp.{lt,ge}.{and,or,xor}.{u16,s16,u64,s64} %d0|%d1, %a0, %a1, %a2;", "pred pred = T T pred"),
    (70, "setp.{lt,geu}.{and,or,xor}.f16x2 %d0|%d1, %a0, %a1, !%a2;", "pred pred = T T pred"),
    (90, "setp.{lt,geu}.{and,or,xor}.bf16x2 %d0|%d1, %a0, %a1, %a2;", "pred pred = T T pred"),
    (70, "set.{lo,ls,hi,hs}.{u32,s32,f32}.{u16,u32,u64}", "D = T T"),
    (70, "set.{eq,ne}.{u32,f32}.{b16,b32,b64}", "D = T T"),
    (70, "set.{le,gt,leu,gtu,geu}{,.ftz}.{u32,s32,f32}.f32", "D = T T"),
    (70, "set.{lt,ge}.{and,or,xor}.{u32,s32,f32}.{s32,u64,f64}", "D = T T pred"),
    (70, "set.{lt,geu}.{and,or,xor}{,.ftz}.{f16,s16,u32}.f16", "D = T T pred"),
    (70, "set.{lt,geu}.{and,or,xor}{,.ftz}.f16x2.f16x2", "D = T T pred"),
    (90, "set.{lt,geu}.{and,or,xor}.bf16x2.bf16x2", "D = T T pred"),
    (90, "set.{eq,lt,gtu,nan}.{s16,s32}.bf16", "D = T T"),
    (70, "selp.{u16,s16,u32,s32,u64,s64}", "T = T T pred"),
    (70, "slct.{u16,s16,u32,s32,u64,s64}.s32", "D = D D T"),
    // Conversions.
    (75, "cvt.pack.sat.{u16,s16}.s32", "b32 = T T"),
    (75, "cvt.pack.sat.{u8,s8,u4,s4,u2,s2}.s32.b32", "T = s32 s32 T"),
    (80, "cvt.rna.satfinite.tf32.f32", "D = T"),
    // Loads and stores with what changes caching or order only.
    (
        70,
        "ld{.weak,.relaxed.cta,.relaxed.gpu,.acquire.sys,.mmio.relaxed.sys}.global.{u32,s8} %d0, [%pin+4];",
        "b64 = b64",
    ),
    (70, "ld.global{.ca,.cg,.cs,.lu,.cv}.{u32,s16} %d0, [%pin+4];", "b64 = b64"),
    (70, "ldu.global.{u32,s16} %d0, [%pin+4];", "b64 = b64"),
    (
        75,
        "ld.global{.L1::evict_last,.L1::no_allocate,.L2::64B,.nc.L1::no_allocate.L2::128B}.u32 %d0, [%pin+4];",
        "b64 = b64",
    ),
    (70, "st{.weak,.relaxed.gpu,.release.sys}.global.b32 [%pout+4], %a0; ld.global.b64 %d0, [%pout];", "b64 = b32"),
    (70, "st.global{.wb,.cg,.cs,.wt}.b32 [%pout+4], %a0; ld.global.b64 %d0, [%pout];", "b64 = b32"),
    (
        80,
        "ld.global.L2::cache_hint.b32 under a policy := {{ .reg .b64 %policy; \
         createpolicy.fractional.L2::evict_last.b64 %policy, 1.0; OPCODE %d0, [%pin], %policy; \
         prefetch.global.L2 [%pin]; applypriority.global.L2::evict_normal [%pin], 128; }}",
        "b32 = b32",
    ),
    // Address windows.
    (
        70,
        "isspacep of a shared address := {{ .shared .b32 cell; mov.u64 %pin, cell; cvta.shared.u64 %pin, %pin; \
         isspacep.shared %d0, %pin; isspacep.global %d1, %pin; isspacep.local %d2, %pin; }}",
        "pred pred pred = b32",
    ),
    (
        70,
        "isspacep of a local address := {{ .local .b32 cell; mov.u64 %pin, cell; cvta.local.u64 %pin, %pin; \
         isspacep.shared %d1, %pin; isspacep.global %d2, %pin; isspacep.local %d0, %pin; }}",
        "pred pred pred = b32",
    ),
    (
        70,
        "isspacep of a global address := {{ cvta.global.u64 %pin, %pin; isspacep.shared %d1, %pin; \
         isspacep.global %d0, %pin; isspacep.local %d2, %pin; }}",
        "pred pred pred = b32",
    ),
    // A cluster of one block.
    (
        90,
        "mapa.shared::cluster.u32 := {{ .shared .align 8 .b8 cells[1024]; mov.u32 %n, cells; mov.u32 %t, %tid.x; \
         mad.lo.u32 %t, %t, 8, %n; mapa.shared::cluster.u32 %n, %t, 0; st.shared::cluster.b32 [%n], %a0; \
         barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned; ld.shared.b32 %d0, [%t]; }}",
        "b32 = b32",
    ),
    (
        90,
        "mapa.u64 := {{ .shared .align 8 .b8 cells[1024]; .reg .b64 %cell; .reg .b32 %x; mov.u32 %n, cells; \
         mov.u32 %t, %tid.x; mad.lo.u32 %t, %t, 8, %n; cvt.u64.u32 %cell, %t; cvta.shared.u64 %cell, %cell; \
         mapa.u64 %cell, %cell, 0; st.b32 [%cell], %a0; barrier.cluster.arrive; barrier.cluster.wait; \
         ld.shared.b32 %d0, [%t]; getctarank.u64 %x, %cell; add.u32 %d0, %d0, %x; \
         mov.u32 %x, %cluster_ctarank; add.u32 %d0, %d0, %x; mov.u32 %x, %cluster_nctarank; add.u32 %d0, %d0, %x; \
         mov.u32 %x, %cluster_ctaid.x; add.u32 %d0, %d0, %x; mov.u32 %x, %cluster_nctaid.y; add.u32 %d0, %d0, %x; }}",
        "b32 = b32",
    ),
    // Atomics.
    (70, "atom.{relaxed,acquire,release,acq_rel}.{cta,gpu,sys}.global.add.u32", ATOMIC),
    (70, "atom.global.cas.b16", "T T = T T T"),
    (70, "atom.shared.{add,min,max}.u64", ATOMIC),
    (70, "atom.shared.{min,max}.s64", ATOMIC),
    (70, "atom.shared.{and,or,xor,exch}.{b32,b64}", ATOMIC),
    (70, "atom.shared.add.{f64,noftz.f16x2}", ATOMIC),
    (70, "red.global.{add,min,max}.u64", ATOMIC),
    (70, "red.global.{min,max}.s64", ATOMIC),
    (70, "red.global.{inc,dec}.u32", ATOMIC),
    (70, "red.global.{and,or,xor}.b64", ATOMIC),
    (70, "red.global.add.noftz.{f16,f16x2}", ATOMIC),
    (90, "red.global.add.noftz.{bf16,bf16x2}", ATOMIC),
    (70, "red.relaxed.gpu.global.add.{u32,f32}", ATOMIC),
    (90, "atom.global.v2.f32.add := ATOM_V2_32", "T T T T = T T T T"),
    (90, "atom.global.v2.{f16x2,bf16x2}.{add,min,max}.noftz := ATOM_V2_32", "T T T T = T T T T"),
    (90, "red.global.v2.f32.add := RED_V2_32", "T T = T T T T"),
    (90, "red.global.v2.{f16x2,bf16x2}.{add,min,max}.noftz := RED_V2_32", "T T = T T T T"),
    (90, "atom.global.v4.{f16,bf16}.{add,min,max}.noftz := ATOM_V4_16", "T T T T T T T T = T T T T T T T T"),
    // Across the lanes of a warp.
    (70, "vote.sync.{all,any,uni}.pred %d0, !%a0, 0xffffffff;", "pred = pred"),
    (70, "match.all.sync.b64 %d0|%d1, %a0, 0xffffffff;", "b32 pred = b64"),
    (75, "movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;", "b32 = b32"),
    // Tensor cores.
    (75, "mma.sync.aligned.m8n8k16.row.col{,.satfinite}.s32.{u8,s8}.{u8,s8}.s32 ROWS_8", ROWS_8),
    (75, "mma.sync.aligned.m8n8k32.row.col{,.satfinite}.s32.{u4,s4}.{u4,s4}.s32 ROWS_8", ROWS_8),
    (75, "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc ROWS_8", ROWS_8),
    (80, "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc ROWS_8", ROWS_8),
    (80, "mma.sync.aligned.m16n8k16.row.col{,.satfinite}.s32.{u8,s8}.{u8,s8}.s32 ROWS_16_SHORT", ROWS_16_SHORT),
    (80, "mma.sync.aligned.m16n8k32.row.col{,.satfinite}.s32.{u4,s4}.{u4,s4}.s32 ROWS_16_SHORT", ROWS_16_SHORT),
    (80, "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.{xor,and}.popc ROWS_16_SHORT", ROWS_16_SHORT),
    (80, "mma.sync.aligned.m16n8k32.row.col{,.satfinite}.s32.{u8,s8}.{u8,s8}.s32 ROWS_16_LONG", ROWS_16_LONG),
    (80, "mma.sync.aligned.m16n8k64.row.col{,.satfinite}.s32.{u4,s4}.{u4,s4}.s32 ROWS_16_LONG", ROWS_16_LONG),
    (80, "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.{xor,and}.popc ROWS_16_LONG", ROWS_16_LONG),
    (
        89,
        "mma.sync.aligned.m16n8k32.row.col.f32.{e4m3,e5m2}.{e4m3,e5m2}.f32 ROWS_16_LONG",
        "f32 f32 f32 f32 = eight eight eight eight eight eight f32 f32 f32 f32",
    ),
    (
        80,
        "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 ROWS_16_SHORT",
        "f32 f32 f32 f32 = tf32 tf32 tf32 f32 f32 f32 f32",
    ),
    (80, "mma.sync.aligned.m8n8k4.row.col{,.rn,.rz,.rm,.rp}.f64.f64.f64.f64 ROWS_8", "f64 f64 = f64 f64 f64 f64"),
    (
        90,
        "mma.sync.aligned.m16n8k4.row.col{,.rz}.f64.f64.f64.f64 ROWS_16_SHORT",
        "f64 f64 f64 f64 = f64 f64 f64 f64 f64 f64 f64",
    ),
    (
        90,
        "mma.sync.aligned.m16n8k8.row.col{,.rz}.f64.f64.f64.f64 ROWS_16_LONG",
        "f64 f64 f64 f64 = f64 f64 f64 f64 f64 f64 f64 f64 f64 f64",
    ),
    (
        75,
        "wmma.mma.sync.aligned.row.col.m16n16k16.s32.{u8.u8,s8.s8}.s32{,.satfinite} := WMMA_BYTES",
        "b64 b64 b64 b64 = b64 b64 b64 b64 b64 b64",
    ),
    (
        90,
        "mma.sync.aligned.m16n8k16.row.col{,.rz}.f64.f64.f64.f64 {{%d0, %d1, %d2, %d3}}, \
         {{%a0, %a1, %a2, %a3, %a4, %a5, %a6, %a7}}, {{%a8, %a9, %a10, %a11}}, {{%a12, %a13, %a14, %a15}};",
        "f64 f64 f64 f64 = f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64",
    ),
];

const ROWS_8: &str = "b32 b32 = b32 b32 b32 b32";
const ROWS_16_SHORT: &str = "b32 b32 b32 b32 = b32 b32 b32 b32 b32 b32 b32";
const ROWS_16_LONG: &str = "b32 b32 b32 b32 = b32 b32 b32 b32 b32 b32 b32 b32 b32 b32";

/// What words of a body stand for, apart from `OPCODE`, the form's first word.
pub(crate) const SHORTHANDS: &[(&str, &str)] = &[
    (
        "ATOM_V2_32",
        "st.global.v2.b32 [%pout+16], {%a0, %a1}; OPCODE {%d0, %d1}, [%pout+16], {%a2, %a3}; \
         ld.global.v2.b32 {%d2, %d3}, [%pout+16];",
    ),
    (
        "RED_V2_32",
        "st.global.v2.b32 [%pout+16], {%a0, %a1}; OPCODE [%pout+16], {%a2, %a3}; \
         ld.global.v2.b32 {%d0, %d1}, [%pout+16];",
    ),
    (
        "ATOM_V4_16",
        "st.global.v4.b16 [%pout+16], {%a0, %a1, %a2, %a3}; \
         OPCODE {%d0, %d1, %d2, %d3}, [%pout+16], {%a4, %a5, %a6, %a7}; \
         ld.global.v4.b16 {%d4, %d5, %d6, %d7}, [%pout+16];",
    ),
    (
        "WMMA_BYTES",
        "{ .shared .align 32 .b8 tiles[6144]; .reg .b32 %x<8>, %y<2>, %z<2>; mov.u32 %t, %tid.x; mov.u32 %n, tiles; \
         and.b32 %i, %t, 31; shr.u32 %t, %t, 5; mad.lo.u32 %n, %t, 1536, %n; mad.lo.u32 %t, %i, 8, %n; \
         st.shared.b64 [%t], %a0; st.shared.b64 [%t+256], %a1; mad.lo.u32 %t, %i, 32, %n; \
         st.shared.b64 [%t+512], %a2; st.shared.b64 [%t+520], %a3; st.shared.b64 [%t+528], %a4; \
         st.shared.b64 [%t+536], %a5; bar.warp.sync 0xffffffff; add.u32 %i, %n, 256; add.u32 %t, %n, 512; \
         wmma.load.a.sync.aligned.row.m16n16k16.shared.u8 {%y0, %y1}, [%n]; \
         wmma.load.b.sync.aligned.col.m16n16k16.shared.u8 {%z0, %z1}, [%i]; \
         wmma.load.c.sync.aligned.row.m16n16k16.shared.s32 {%x0, %x1, %x2, %x3, %x4, %x5, %x6, %x7}, [%t]; \
         OPCODE {%x0, %x1, %x2, %x3, %x4, %x5, %x6, %x7}, {%y0, %y1}, {%z0, %z1}, \
         {%x0, %x1, %x2, %x3, %x4, %x5, %x6, %x7}; \
         wmma.store.d.sync.aligned.row.m16n16k16.shared.s32 [%t], {%x0, %x1, %x2, %x3, %x4, %x5, %x6, %x7}; \
         bar.warp.sync 0xffffffff; mov.u32 %t, %laneid; mad.lo.u32 %t, %t, 32, %n; ld.shared.b64 %d0, [%t+512]; \
         ld.shared.b64 %d1, [%t+520]; ld.shared.b64 %d2, [%t+528]; ld.shared.b64 %d3, [%t+536]; }",
    ),
    ("ROWS_8", "{%d0, %d1}, {%a0}, {%a1}, {%a2, %a3};"),
    ("ROWS_16_SHORT", "{%d0, %d1, %d2, %d3}, {%a0, %a1}, {%a2}, {%a3, %a4, %a5, %a6};"),
    ("ROWS_16_LONG", "{%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7, %a8, %a9};"),
];
