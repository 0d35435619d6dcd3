//! What the tests share: running the binary, copying the fixture, recording small runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lpa::{DType, Manifest, Optimizer, Slice, Step, StreamInfo, TensorInfo, Writer, WriterOptions};
use tempfile::TempDir;

/// What a run of the binary gave.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Ran { code: o.status.code().unwrap_or(-1), out: text(&o.stdout), err: text(&o.stderr) }
    }
}

pub fn lpa() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lpa"));
    command.env_remove("LPA_ISA");
    command
}

pub fn run(args: &[&str]) -> Ran {
    lpa().args(args).output().unwrap().into()
}

/// Rows of CSV output by column.
pub type Row = BTreeMap<String, String>;

/// Analyzes a run to CSV and returns its rows.
pub fn rows(path: &Path, extra: &[&str]) -> Vec<Row> {
    let ran = run(&[&["analyze", path.to_str().unwrap(), "--format", "csv"], extra].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    parse(&ran.out)
}

/// Reads CSV with a header line.
pub fn parse(text: &str) -> Vec<Row> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(Result::unwrap).collect()
}

/// A row without the columns that depend on what is measured at other steps.
pub fn alone(row: &Row) -> Row {
    let others = ["cos_walk", "t_excess", "sampled"];
    row.iter().filter(|(k, _)| !others.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// CSV without its last column, the run's id: what two runs of the same path have in common.
pub fn without_id(csv: &str) -> String {
    assert!(csv.lines().next().is_some_and(|head| head.ends_with(",run_id")));
    csv.lines().map(|line| format!("{}\n", line.rsplit_once(',').unwrap().0)).collect()
}

/// A number of a row; `None` where it is null.
pub fn number(row: &Row, column: &str) -> Option<f64> {
    let text = &row[column];
    (!text.is_empty()).then(|| text.parse().unwrap())
}

/// A copy of a fixture for the tests of this thread, without what an analysis may have left in it.
pub fn fixture(name: &str) -> PathBuf {
    thread_local! {
        static COPIES: TempDir = tempfile::tempdir().unwrap();
    }
    let path = COPIES.with(|copies| copies.path().join(name));
    if !path.exists() {
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        copy_recorded(&original, &path);
    }
    path
}

fn copy_recorded(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let result = name == "lpa-references" || name.ends_with(".parquet");
        if entry.file_type().unwrap().is_dir() && !result {
            copy_recorded(&entry.path(), &to.join(name));
        } else if !result {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// A copy of a fixture that a test may damage.
pub struct Copy {
    _dir: TempDir,
    pub path: PathBuf,
}

impl Copy {
    pub fn of(name: &str) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        copy_dir(&fixture(name), &path);
        Copy { _dir: dir, path }
    }

    pub fn arg(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn shards(&self) -> Vec<PathBuf> {
        Copy::shards_of(&self.path)
    }

    /// The shards of any run.
    pub fn shards_of(run: &Path) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for dir in std::fs::read_dir(run.join("steps")).unwrap() {
            all.extend(std::fs::read_dir(dir.unwrap().path()).unwrap().map(|f| f.unwrap().path()));
        }
        all.sort();
        all
    }

    pub fn edit(&self, file: &str, change: impl FnOnce(String) -> String) {
        let path = self.path.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed, "the edit of {file} changed nothing");
        std::fs::write(&path, changed).unwrap();
    }
}

/// Every file below a directory with its bytes.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

/// A file with zeros in place of the id of its attempt, which is drawn at random.
pub fn without_attempt_id(mut bytes: Vec<u8>) -> Vec<u8> {
    let key = b"\"attempt_id\":\"";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    bytes[at..at + 16].fill(b'0');
    bytes
}

/// The data of a safetensors file.
pub fn data_of(bytes: &[u8]) -> &[u8] {
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    &bytes[8 + header as usize..]
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes one bit of a file.
pub fn flip(path: &Path, byte: usize, bit: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1 << bit;
    std::fs::write(path, bytes).unwrap();
}

pub fn tensors(sizes: &[u64]) -> Vec<TensorInfo> {
    let tensor = |(i, &n): (usize, &u64)| TensorInfo::new(&format!("t{i}"), &[n], DType::F32);
    sizes.iter().enumerate().map(tensor).collect()
}

pub fn manifest(sizes: &[u64]) -> Manifest {
    let stream = StreamInfo { name: "grad".to_owned(), stage: String::new() };
    Manifest::new(tensors(sizes), vec![stream]).unwrap()
}

/// One tensor of eight elements, of which each of two ranks writes a half.
pub fn two_ranks() -> Manifest {
    let mut m = manifest(&[8]);
    m.world = 2;
    m.slices =
        [(0, 4, 0), (4, 8, 1)].map(|(begin, end, rank)| Slice { tensor: 0, begin, end, rank }).to_vec();
    m
}

/// Values in [-1, 1) that depend on all arguments.
pub fn values(n: u64, step: u64, salt: u64) -> Vec<u8> {
    let mut state = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd1b5_4a32_d192_ed03) | 1;
    let mut bytes = Vec::new();
    for _ in 0..n {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0;
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Whole tensors of the given sizes.
pub fn vector(sizes: &[u64], step: u64, salt: u64) -> Vec<Vec<u8>> {
    sizes.iter().enumerate().map(|(i, &n)| values(n, step, salt + 100 * i as u64)).collect()
}

pub fn borrow(vector: &[Vec<u8>]) -> Vec<Option<&[u8]>> {
    vector.iter().map(|v| Some(v.as_slice())).collect()
}

/// Writes step t of the deterministic test run: iterate salt 1, gradient salt 2.
pub fn write_step(writer: &mut Writer, sizes: &[u64]) {
    let t = writer.next_step();
    let (x, g) = (vector(sizes, t, 1), vector(sizes, t, 2));
    let (x, g) = (borrow(&x), borrow(&g));
    let scalars = [("loss", 1.0 / (t + 1) as f64), ("lr/0", 0.1)];
    writer
        .step(&Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &scalars, ..Step::default() })
        .unwrap();
}

/// Records a complete run of `steps` steps.
pub fn record(path: &Path, sizes: &[u64], steps: u64, options: WriterOptions) {
    let mut writer = Writer::create(path, manifest(sizes), options).unwrap();
    for _ in 0..steps {
        write_step(&mut writer, sizes);
    }
    let last = vector(sizes, steps, 1);
    writer.finish(&borrow(&last)).unwrap();
}

/// The iterate of the deterministic test run with [`signs`].
fn by_signs(sizes: &[u64], step: u64) -> Vec<Vec<u8>> {
    let floats =
        |bytes: &[u8]| -> Vec<f32> { bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect() };
    let mut x: Vec<Vec<f32>> = vector(sizes, 0, 1).iter().map(|v| floats(v)).collect();
    for g in (0..step).map(|s| vector(sizes, s, 2)) {
        for (x, g) in x.iter_mut().zip(&g) {
            x.iter_mut().zip(floats(g)).for_each(|(x, g)| *x -= 0.1 * g.signum());
        }
    }
    x.iter().map(|v| v.iter().flat_map(|x| x.to_le_bytes()).collect()).collect()
}

/// The same manifest, of an Adam that forgets at once: its steps are `lr` times the signs of the gradients.
pub fn signs(mut manifest: Manifest) -> Manifest {
    let group = serde_json::json!({"lr": 0.1, "betas": [0.0, 0.0], "eps": 1e-30, "weight_decay": 0.0});
    let param_groups = vec![group.as_object().unwrap().clone()];
    manifest.optimizer = Optimizer { name: "adam".to_owned(), param_groups };
    manifest
}

/// What a rank of a manifest writes of a vector of the deterministic test run.
pub fn part_of(manifest: &Manifest, rank: u32, t: u64, salt: u64) -> Vec<Vec<u8>> {
    let sizes: Vec<u64> = manifest.tensors.iter().map(|t| t.shape[0]).collect();
    let moves = salt == 1 && manifest.optimizer.name == "adam";
    let whole = if moves { by_signs(&sizes, t) } else { vector(&sizes, t, salt) };
    if manifest.world == 1 {
        return whole;
    }
    let of_tensor = |i: usize| {
        let own = manifest.slices.iter().filter(|s| s.tensor == i && s.rank == rank);
        own.flat_map(|s| whole[i][s.begin as usize * 4..s.end as usize * 4].to_vec()).collect()
    };
    (0..sizes.len()).map(of_tensor).collect()
}

/// Writes steps of [`record`], each rank its slices.
pub fn write_by_ranks(writers: &mut [Writer], steps: std::ops::Range<u64>) {
    for t in steps {
        for (rank, writer) in writers.iter_mut().enumerate() {
            let [x, g] = [1, 2].map(|salt| part_of(writer.manifest(), rank as u32, t, salt));
            let (x, g) = (borrow(&x), borrow(&g));
            let scalars = [("loss", 1.0 / (t + 1) as f64), ("lr/0", 0.1)];
            let step =
                Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &scalars, ..Step::default() };
            writer.step(&step).unwrap();
        }
    }
}

/// Records the steps of [`record`] by the ranks that a manifest says, each of which writes its slices.
pub fn record_by_ranks(path: &Path, manifest: Manifest, steps: u64, options: WriterOptions) {
    let world = manifest.world;
    let mut writers = vec![Writer::create(path, manifest, options).unwrap()];
    writers.extend((1..world).map(|rank| Writer::join(path, rank, options).unwrap()));
    write_by_ranks(&mut writers, 0..steps);
    for (rank, writer) in writers.iter_mut().enumerate() {
        assert!(!path.join("ref/final.safetensors").exists(), "only the last rank writes it");
        let x = part_of(writer.manifest(), rank as u32, steps, 1);
        writer.finish(&borrow(&x)).unwrap();
    }
}
