// Subject of the emulator's tests: decode attention with an online softmax, keys split over the warps of a block.
// decode_sm75.ptx and decode_sm80.ptx are NVRTC 12.4's, decode_cuda13.ptx is NVRTC 13.0's for compute_80.
#define INFINITY __int_as_float(0x7f800000)
#include <cuda_fp16.h>
#include <cuda_bf16.h>
template<typename T> __device__ float ldf(T x);
template<> __device__ float ldf(float x){return x;}
template<> __device__ float ldf(__half x){return __half2float(x);}
template<> __device__ float ldf(__nv_bfloat16 x){return __bfloat162float(x);}
template<typename T> __device__ T stf(float x);
template<> __device__ float stf(float x){return x;}
template<> __device__ __half stf(float x){return __float2half(x);}
template<> __device__ __nv_bfloat16 stf(float x){return __float2bfloat16(x);}
// one block per (batch, q head); warps split keys
template<typename T,int D> __device__ void body(const T*q,const T*k,const T*v,T*o,const int*lens,int hq,int hkv,int cap,float scale){
  int h=blockIdx.x,b=blockIdx.y,lane=threadIdx.x&31,w=threadIdx.x>>5,nw=blockDim.x>>5;
  int kvh=h/(hq/hkv);int n=lens[b];
  __shared__ float sm[8],sl[8]; __shared__ float so[8][D];
  constexpr int E=D/32; float qr[E],acc[E];
  const T*qp=q+((size_t)b*hq+h)*D;
  for(int i=0;i<E;i++){qr[i]=ldf(qp[i*32+lane])*scale;acc[i]=0;}
  float m=-INFINITY,l=0;
  for(int j=w;j<n;j+=nw){
    const T*kp=k+(((size_t)b*cap+j)*hkv+kvh)*D; const T*vp=v+(((size_t)b*cap+j)*hkv+kvh)*D;
    float s=0; for(int i=0;i<E;i++) s+=qr[i]*ldf(kp[i*32+lane]);
    for(int d=16;d;d>>=1) s+=__shfl_xor_sync(~0u,s,d);
    float mn=fmaxf(m,s); float c=__expf(m-mn),p=expf(s-mn);
    l=l*c+p; m=mn; for(int i=0;i<E;i++) acc[i]=acc[i]*c+p*ldf(vp[i*32+lane]);
  }
  if(lane==0){sm[w]=m;sl[w]=l;} for(int i=0;i<E;i++) so[w][i*32+lane]=acc[i];
  __syncthreads();
  for(int d=threadIdx.x;d<D;d+=blockDim.x){
    float M=-INFINITY; for(int i=0;i<nw;i++) M=fmaxf(M,sm[i]);
    float L=0,O=0; for(int i=0;i<nw;i++){float c=sl[i]==0?0:expf(sm[i]-M);L+=sl[i]*c;O+=so[i][d]*c;}
    o[((size_t)b*hq+h)*D+d]=stf<T>(L>0?O/L:0.f);
  }
}
#define K(n,T,D) extern "C" __global__ void n(const T*q,const T*k,const T*v,T*o,const int*lens,int hq,int hkv,int cap,float scale){body<T,D>(q,k,v,o,lens,hq,hkv,cap,scale);}
K(dec_f32_128,float,128) K(dec_f16_128,__half,128) K(dec_bf16_128,__nv_bfloat16,128) K(dec_f32_64,float,64)
