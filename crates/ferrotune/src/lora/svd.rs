//! Singular value decompositions of products of thin factors and of dense matrices; all sums in f64.
//!
//! `B A` is never made: with `B = Qb Rb` and `At = Qa Ra` its singular values are those of the small `Rb Rat`.
//! A dense matrix goes through Lanczos' bidiagonalization (Golub, Kahan 1965) with full reorthogonalization, which ends
//! when the triplets asked for have converged, at the latest when it spans the whole space.

use ferrotune_kernels::rng::Stream;

/// `B A`, A `[rank, cols]` and B `[rows, rank]` row-major.
#[derive(Debug, Clone)]
pub(super) struct Factors {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) rank: usize,
    pub(super) a: Vec<f32>,
    pub(super) b: Vec<f32>,
}

impl Factors {
    /// A and B of a greater rank with the same product.
    pub(super) fn padded(self, rank: usize) -> (Vec<f32>, Vec<f32>) {
        if self.rank == rank {
            return (self.a, self.b);
        }
        let mut a = self.a;
        a.resize(rank * self.cols, 0.0);
        let mut b = vec![0.0; self.rows * rank];
        for (to, from) in b.chunks_exact_mut(rank).zip(self.b.chunks(self.rank.max(1))) {
            to[..self.rank].copy_from_slice(from);
        }
        (a, b)
    }

    /// `B A [rows, cols]`.
    pub(super) fn product(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows * self.cols);
        let mut sum = vec![0.0f64; self.cols];
        for b in self.b.chunks_exact(self.rank) {
            sum.fill(0.0);
            for (factor, a) in b.iter().zip(self.a.chunks_exact(self.cols)) {
                sum.iter_mut().zip(a).for_each(|(s, a)| *s += *factor as f64 * *a as f64);
            }
            out.extend(sum.iter().map(|v| *v as f32));
        }
        out
    }
}

/// Columns of a matrix.
pub(super) type Columns = Vec<Vec<f64>>;

/// `U diag(s) Vt`, the greatest first.
pub(super) struct Svd {
    rows: usize,
    cols: usize,
    u: Columns,
    s: Vec<f64>,
    v: Columns,
}

/// Singular values below this share of the greatest vanish when factors are rounded to f32.
const ROUNDING: f64 = 1e-7;

impl Svd {
    /// `A = Vt`, `B = U diag(s)` of the first singular values.
    fn factors(&self, rank: usize) -> Factors {
        let rank = rank.min(self.s.len());
        let a = self.v[..rank].iter().flatten().map(|v| *v as f32).collect();
        let at = |row: usize, i: usize| (self.u[i][row] * self.s[i]) as f32;
        let b = (0..self.rows).flat_map(|row| (0..rank).map(move |i| (row, i))).map(|(row, i)| at(row, i));
        Factors { rows: self.rows, cols: self.cols, rank, a, b: b.collect() }
    }

    /// All that is not lost in rounding anyway.
    pub(super) fn exact(&self) -> Factors {
        let least = self.s.first().map_or(0.0, |s| s * ROUNDING);
        self.factors(self.s.iter().take_while(|s| **s > least).count())
    }

    /// The best approximation of this rank, and the share of the norm that it leaves out.
    pub(super) fn truncated(&self, rank: usize) -> (Factors, f64) {
        let square = |s: &[f64]| s.iter().map(|s| s * s).sum::<f64>();
        let (cut, whole) = (square(&self.s[rank.min(self.s.len())..]), square(&self.s));
        (self.factors(rank), if whole > 0.0 { (cut / whole).sqrt() } else { 0.0 })
    }
}

/// The decomposition of `B A`.
pub(super) fn product(f: &Factors) -> Svd {
    let column = |q: usize| f.b[q..].iter().step_by(f.rank.max(1)).map(|v| *v as f64).collect();
    let (qb, rb) = orthonormal((0..f.rank).map(column));
    let (qa, ra) = orthonormal(f.a.chunks_exact(f.cols).map(|row| row.iter().map(|v| *v as f64).collect()));
    let small = ra.iter().map(|a| rb.iter().map(|b| dot(a, b)).collect()).collect();
    let (u, s, v) = jacobi(small, qb.len());
    Svd { rows: f.rows, cols: f.cols, u: times(&qb, &u, f.rows), s, v: times(&qa, &v, f.cols) }
}

/// The greatest singular triplets of the dense `delta [rows, cols]` as factors, and the share of the norm left out.
pub(super) fn dense(delta: &[f32], rows: usize, cols: usize, rank: usize) -> (Factors, f64) {
    // With the shorter side on the right the last step of Lanczos leaves no remainder.
    let transposed = cols > rows;
    let matrix = Dense { values: delta, rows, cols, transposed };
    let (left, s, right) = lanczos(&matrix, rank);
    let (u, v) = if transposed { (right, left) } else { (left, right) };
    let svd = Svd { rows, cols, u, s, v };
    let whole: f64 = delta.iter().map(|v| (*v as f64).powi(2)).sum();
    let kept: f64 = svd.s.iter().map(|s| s * s).sum();
    let cut = if whole > 0.0 { ((whole - kept) / whole).max(0.0).sqrt() } else { 0.0 };
    (svd.factors(rank), cut)
}

/// `W ~ U diag(s) Vt` of the `rank` greatest singular values of `w [rows, cols]`: columns of U, s, columns of V.
pub(super) fn largest(w: &[f32], rows: usize, cols: usize, rank: usize) -> (Columns, Vec<f64>, Columns) {
    let transposed = cols > rows;
    let (left, s, right) = lanczos(&Dense { values: w, rows, cols, transposed }, rank);
    if transposed { (right, s, left) } else { (left, s, right) }
}

/// Inner product in eight sums, which the compiler can vectorise.
pub(super) fn dot<T: Copy + Into<f64>>(a: &[T], b: &[f64]) -> f64 {
    let ((xs, xs_rest), (ys, ys_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (x, y) in xs.iter().zip(ys) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(s, (x, y))| *s += (*x).into() * y);
    }
    sums.iter().sum::<f64>() + xs_rest.iter().zip(ys_rest).map(|(x, y)| (*x).into() * y).sum::<f64>()
}

/// `to += factor from`.
pub(super) fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

/// Takes the directions of `basis` out of `v`; gives how much of each there was. Twice is enough (Kahan, Parlett).
fn remove(v: &mut [f64], basis: &Columns) -> Vec<f64> {
    let mut shares = vec![0.0; basis.len()];
    for _ in 0..2 {
        for (q, share) in basis.iter().zip(&mut shares) {
            let part = dot(q, v);
            add(v, -part, q);
            *share += part;
        }
    }
    shares
}

/// `Q` with orthonormal columns and the rows of `R`, the matrix of these columns being `Q R`; columns that depend on
/// earlier ones add none to Q.
fn orthonormal(columns: impl Iterator<Item = Vec<f64>>) -> (Columns, Vec<Vec<f64>>) {
    let (mut q, mut shares): (Columns, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    for mut column in columns {
        let before = norm(&column);
        let mut parts = remove(&mut column, &q);
        let rest = norm(&column);
        if rest > 1e-14 * before {
            column.iter_mut().for_each(|v| *v /= rest);
            q.push(column);
            parts.push(rest);
        }
        shares.push(parts);
    }
    let rows = (0..q.len()).map(|i| shares.iter().map(|p| p.get(i).copied().unwrap_or(0.0)).collect());
    (q, rows.collect())
}

/// The columns of `Q C`, `Q` of `rows` rows.
fn times(q: &Columns, coefficients: &Columns, rows: usize) -> Columns {
    let combine = |c: &Vec<f64>| {
        let mut out = vec![0.0; rows];
        c.iter().zip(q).for_each(|(c, q)| add(&mut out, *c, q));
        out
    };
    coefficients.iter().map(combine).collect()
}

/// One-sided Jacobi (Hestenes 1958) on the columns of a small matrix of `rows` rows: columns of U, s, columns of V.
fn jacobi(mut w: Columns, rows: usize) -> (Columns, Vec<f64>, Columns) {
    let n = w.len();
    if n > rows {
        // Fewer columns converge sooner, and then none of them is left over.
        let turned = (0..rows).map(|r| w.iter().map(|column| column[r]).collect()).collect();
        let (v, s, u) = jacobi(turned, n);
        return (u, s, v);
    }
    let mut v: Columns = (0..n).map(|i| (0..n).map(|j| (i == j) as u8 as f64).collect()).collect();
    for _sweep in 0..60 {
        let mut turned = false;
        for i in 0..n {
            for j in i + 1..n {
                let (p, q, g) = (dot(&w[i], &w[i]), dot(&w[j], &w[j]), dot(&w[i], &w[j]));
                if g.abs() <= 1e-15 * (p * q).sqrt() || g == 0.0 {
                    continue;
                }
                turned = true;
                let zeta = (q - p) / (2.0 * g);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                for m in [&mut w, &mut v] {
                    let (left, right) = m.split_at_mut(j);
                    for (x, y) in left[i].iter_mut().zip(&mut right[0]) {
                        (*x, *y) = (c * *x - c * t * *y, c * t * *x + c * *y);
                    }
                }
            }
        }
        if !turned {
            break;
        }
    }
    let s: Vec<f64> = w.iter().map(|c| norm(c)).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| s[*j].total_cmp(&s[*i]));
    let unit = |i: &usize| w[*i].iter().map(|x| if s[*i] > 0.0 { x / s[*i] } else { 0.0 }).collect();
    let u = order.iter().map(unit).collect();
    (u, order.iter().map(|i| s[*i]).collect(), order.iter().map(|i| v[*i].clone()).collect())
}

/// A dense matrix, or its transpose.
struct Dense<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl Dense<'_> {
    /// Rows and columns as they count here.
    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// `M x`, or `Mt x`.
    fn times(&self, x: &[f64], transpose: bool) -> Vec<f64> {
        if transpose == self.transposed {
            return self.values.chunks_exact(self.cols).map(|row| dot(row, x)).collect();
        }
        let mut out = vec![0.0; self.cols];
        for (row, x) in self.values.chunks_exact(self.cols).zip(x) {
            out.iter_mut().zip(row).for_each(|(o, a)| *o += *a as f64 * x);
        }
        out
    }
}

/// The `rank` greatest triplets: columns of U, s, columns of V.
fn lanczos(m: &Dense<'_>, rank: usize) -> (Columns, Vec<f64>, Columns) {
    let (rows, cols) = m.shape();
    let limit = rows.min(cols);
    let rank = rank.min(limit);
    let random = Stream::new(0, "lanczos", 0);
    let mut draws = 0u64;
    // A direction that is orthogonal to all before, where the recurrence gives none.
    let mut fresh = |basis: &Columns, len: usize| loop {
        let mut v: Vec<f64> = (0..len as u64).map(|i| random.normal(draws * len as u64 + i) as f64).collect();
        draws += 1;
        let before = norm(&v);
        remove(&mut v, basis);
        let rest = norm(&v);
        if rest > 1e-8 * before {
            v.iter_mut().for_each(|x| *x /= rest);
            return v;
        }
    };
    let (mut u, mut v): (Columns, Columns) = (Vec::new(), vec![fresh(&Vec::new(), cols)]);
    let (mut diagonal, mut above): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut scale = 0.0f64;
    let mut check_at = (2 * rank + 16).min(limit);
    loop {
        let mut left = m.times(&v[u.len()], false);
        remove(&mut left, &u);
        let mut alpha = norm(&left);
        scale = scale.max(alpha);
        if alpha > 1e-14 * scale {
            left.iter_mut().for_each(|x| *x /= alpha);
        } else {
            (left, alpha) = (fresh(&u, rows), 0.0);
        }
        let mut right = m.times(&left, true);
        u.push(left);
        diagonal.push(alpha);
        remove(&mut right, &v);
        let beta = norm(&right);
        let steps = u.len();
        if steps == check_at {
            // The bidiagonal matrix by its columns.
            let column = |j: usize| {
                let mut c = vec![0.0; steps];
                c[j] = diagonal[j];
                if j > 0 {
                    c[j - 1] = above[j - 1];
                }
                c
            };
            let (p, s, q) = jacobi((0..steps).map(column).collect(), steps);
            let rest = p[..rank].iter().map(|p| (beta * p[steps - 1]).abs()).fold(0.0, f64::max);
            if steps == limit || rest <= 1e-9 * s[0] {
                return (
                    times(&u, &p[..rank].to_vec(), rows),
                    s[..rank].to_vec(),
                    times(&v, &q[..rank].to_vec(), cols),
                );
            }
            check_at = (steps + steps / 3).min(limit);
        }
        if beta > 1e-14 * scale.max(beta) && beta > 0.0 {
            right.iter_mut().for_each(|x| *x /= beta);
            v.push(right);
            above.push(beta);
        } else {
            v.push(fresh(&v, cols));
            above.push(0.0);
        }
        scale = scale.max(beta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(name: &str, rows: usize, cols: usize) -> Vec<f32> {
        let stream = Stream::new(3, name, 0);
        (0..(rows * cols) as u64).map(|i| stream.normal(i)).collect()
    }

    fn max_abs(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
    }

    #[test]
    fn product_and_dense_paths_agree_and_full_rank_loses_nothing() {
        for (rows, cols, rank) in [(20, 33, 6), (33, 20, 6), (4, 50, 9), (7, 7, 7), (1, 9, 2)] {
            let f = Factors { rows, cols, rank, a: random("a", rank, cols), b: random("b", rows, rank) };
            let delta = f.product();
            let thin = product(&f);
            assert!(max_abs(&thin.exact().product(), &delta) < 1e-5, "{rows} x {cols}");
            for kept in 1..=rank.min(rows).min(cols) {
                let (best, cut) = thin.truncated(kept);
                let (other, same) = dense(&delta, rows, cols, kept);
                assert!(max_abs(&best.product(), &other.product()) < 1e-5, "{rows} x {cols} at {kept}");
                assert!((cut - same).abs() < 1e-5, "{cut} {same}");
                let rest: Vec<f32> = delta.iter().zip(best.product()).map(|(d, b)| d - b).collect();
                let norm = |v: &[f32]| v.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
                assert!((norm(&rest) / norm(&delta) - cut).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn dependent_columns_repeated_values_and_zeros_are_no_trouble() {
        let (rows, cols) = (12, 10);
        // The same branch twice, once with the opposite sign: nothing is left.
        let (a, b) = (random("a", 3, cols), random("b", rows, 3));
        let twice: Vec<f32> = a.iter().copied().chain(a.iter().map(|v| -v)).collect();
        let wide: Vec<f32> = b.chunks_exact(3).flat_map(|r| r.iter().chain(r).copied()).collect();
        let svd = product(&Factors { rows, cols, rank: 6, a: twice, b: wide });
        assert!(svd.exact().product().iter().all(|v| v.abs() < 1e-5));
        // All singular values are equal: the first Krylov space is already invariant.
        let eye: Vec<f32> = (0..100).map(|i| (i % 11 == 0) as u8 as f32).collect();
        let (whole, cut) = dense(&eye, 10, 10, 10);
        assert!(max_abs(&whole.product(), &eye) < 1e-6 && cut < 1e-6);
        let (zero, cut) = dense(&[0.0; 120], rows, cols, 4);
        assert!(zero.product().iter().all(|v| *v == 0.0) && cut == 0.0);
        assert_eq!(
            product(&Factors { rows, cols, rank: 1, a: vec![0.0; cols], b: vec![0.0; rows] }).exact().rank,
            0
        );
    }

    #[test]
    fn lanczos_stops_before_the_whole_space_and_is_still_right() {
        let (rows, cols, rank) = (120, 100, 4);
        let f = Factors { rows, cols, rank: 8, a: random("a", 8, cols), b: random("b", rows, 8) };
        let noise = random("noise", rows, cols);
        let delta: Vec<f32> = f.product().iter().zip(&noise).map(|(d, n)| d + 0.01 * n).collect();
        let whole = product(&Factors {
            rows,
            cols,
            rank: cols,
            a: (0..cols * cols).map(|i| (i % (cols + 1) == 0) as u8 as f32).collect(),
            b: delta.clone(),
        });
        let found = dense(&delta, rows, cols, rank).0;
        assert!(max_abs(&found.product(), &whole.truncated(rank).0.product()) < 1e-4);
    }

    #[test]
    fn all_triplets_together_are_the_matrix_and_those_of_low_rank_need_no_more() {
        let sum = |(u, s, v): &(Columns, Vec<f64>, Columns), at: (usize, usize)| -> f64 {
            (0..s.len()).map(|q| s[q] * u[q][at.0] * v[q][at.1]).sum()
        };
        for (rows, cols) in [(1, 1), (5, 9), (9, 5), (40, 24), (33, 33)] {
            let w = random("w", rows, cols);
            let found = largest(&w, rows, cols, rows.min(cols));
            for (i, w) in w.iter().enumerate() {
                assert!((*w as f64 - sum(&found, (i / cols, i % cols))).abs() < 1e-9, "{rows} x {cols}");
            }
            assert!(found.1.windows(2).all(|s| s[0] >= s[1]));
            for vectors in [&found.0, &found.2] {
                for (i, a) in vectors.iter().enumerate() {
                    for (j, b) in vectors.iter().enumerate() {
                        assert!((dot(a, b) - (i == j) as u8 as f64).abs() < 1e-8, "{rows} x {cols}");
                    }
                }
            }
        }
        let f = Factors { rows: 30, cols: 20, rank: 2, a: random("a", 2, 20), b: random("b", 30, 2) };
        let w = f.product();
        let found = largest(&w, 30, 20, 2);
        assert!(w.iter().enumerate().all(|(i, w)| (*w as f64 - sum(&found, (i / 20, i % 20))).abs() < 1e-5));
        assert_eq!(largest(&[0.0; 12], 3, 4, 2).1, [0.0, 0.0]);
    }
}
