use lpa::codec::*;
use lpa::dtype::DType;
use lpa::isa::Isa;
fn main() {
    for name in ["resnet", "transformer"] {
        for t in [16, 150, 283] {
            let b = std::fs::read(format!("/tmp/g_{name}_{t}.f32")).unwrap();
            let sizes: Vec<usize> = std::fs::read_to_string(format!("/tmp/g_{name}_{t}.txt"))
                .unwrap()
                .lines()
                .map(|l| l.parse().unwrap())
                .collect();
            for e in [Exponents::Huffman, Exponents::Packed] {
                let mut enc = Encoder::new(Isa::detect(), e).unwrap();
                let mut at = 0;
                let mut tot = 0;
                let mut out = Vec::new();
                let st = std::time::Instant::now();
                for &n in &sizes {
                    let mut k = 0;
                    while k < n {
                        let m = (n - k).min(65536);
                        out.clear();
                        enc.encode(DType::F32, &b[(at + k) * 4..(at + k + m) * 4], &mut out).unwrap();
                        tot += (out.len() + 63) / 64 * 64 + 32;
                        k += m;
                    }
                    at += n;
                }
                println!(
                    "{name} {t} {e:?} bits {:.3}  enc {:.2} GB/s",
                    tot as f64 * 8.0 / at as f64,
                    b.len() as f64 / st.elapsed().as_secs_f64() / 1e9
                );
            }
        }
    }
}
