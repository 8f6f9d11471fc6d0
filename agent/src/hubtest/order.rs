//! The order in which results of scenarios are numbered.
//!
//! The field sorts with Go's `sort.Sort`, which is not stable: which of two equal results comes first can be seen in
//! assertions. So the algorithm (a quicksort that defeats patterns) is followed step by step (spec: hub-and-tests C.3).

/// Sorts `items` as Go does; `less` says whether the first of two belongs before the second.
pub(super) fn go_sort<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let len = items.len();
    let depth = usize::BITS - len.leading_zeros();
    let mut sorter = Sorter { items, less };
    sorter.sort(0, len, depth);
}

struct Sorter<'a, T, F> {
    items: &'a mut [T],
    less: F,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Unknown,
    Increasing,
    Decreasing,
}

impl<T, F: Fn(&T, &T) -> bool> Sorter<'_, T, F> {
    fn less(&self, a: usize, b: usize) -> bool {
        (self.less)(&self.items[a], &self.items[b])
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.items.swap(a, b);
    }

    fn sort(&mut self, mut a: usize, mut b: usize, mut limit: u32) {
        let (mut balanced, mut partitioned) = (true, true);
        loop {
            let len = b - a;
            if len <= 12 {
                self.insertion_sort(a, b);
                return;
            }
            if limit == 0 {
                self.heap_sort(a, b);
                return;
            }
            if !balanced {
                self.break_patterns(a, b);
                limit -= 1;
            }
            let (mut pivot, mut hint) = self.choose_pivot(a, b);
            if hint == Hint::Decreasing {
                self.items[a..b].reverse();
                pivot = (b - 1) - (pivot - a);
                hint = Hint::Increasing;
            }
            if balanced && partitioned && hint == Hint::Increasing && self.partial_insertion_sort(a, b) {
                return;
            }
            if a > 0 && !self.less(a - 1, pivot) {
                a = self.partition_equal(a, b, pivot);
                continue;
            }
            let (middle, already) = self.partition(a, b, pivot);
            partitioned = already;
            let (left, right) = (middle - a, b - middle);
            if left < right {
                balanced = left >= len / 8;
                self.sort(a, middle, limit);
                a = middle + 1;
            } else {
                balanced = right >= len / 8;
                self.sort(middle + 1, b, limit);
                b = middle;
            }
        }
    }

    fn insertion_sort(&mut self, a: usize, b: usize) {
        for i in a + 1..b {
            let mut j = i;
            while j > a && self.less(j, j - 1) {
                self.swap(j, j - 1);
                j -= 1;
            }
        }
    }

    fn heap_sort(&mut self, a: usize, b: usize) {
        let len = b - a;
        for root in (0..len.div_ceil(2)).rev() {
            self.sift_down(root, len, a);
        }
        for last in (0..len).rev() {
            self.swap(a, a + last);
            self.sift_down(0, last, a);
        }
    }

    fn sift_down(&mut self, mut root: usize, len: usize, first: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= len {
                return;
            }
            if child + 1 < len && self.less(first + child, first + child + 1) {
                child += 1;
            }
            if !self.less(first + root, first + child) {
                return;
            }
            self.swap(first + root, first + child);
            root = child;
        }
    }

    fn break_patterns(&mut self, a: usize, b: usize) {
        let len = b - a;
        if len < 8 {
            return;
        }
        let mut random = len as u64;
        let modulus = 1_usize << (usize::BITS - len.leading_zeros());
        let middle = a + (len / 4) * 2 - 1;
        for place in middle - 1..=middle + 1 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut other = random as usize & (modulus - 1);
            if other >= len {
                other -= len;
            }
            self.swap(place, a + other);
        }
    }

    fn choose_pivot(&self, a: usize, b: usize) -> (usize, Hint) {
        let len = b - a;
        let mut quarters = [1, 2, 3].map(|quarter| a + len / 4 * quarter);
        let mut swaps = 0;
        if len >= 50 {
            quarters = quarters.map(|at| self.median(at - 1, at, at + 1, &mut swaps));
        }
        let [low, mut middle, high] = quarters;
        if len >= 8 {
            middle = self.median(low, middle, high, &mut swaps);
        }
        let hint = match swaps {
            0 => Hint::Increasing,
            12 => Hint::Decreasing,
            _ => Hint::Unknown,
        };
        (middle, hint)
    }

    fn median(&self, mut a: usize, mut b: usize, mut c: usize, swaps: &mut u32) -> usize {
        for step in 0..3 {
            let (first, second) = if step == 1 { (&mut b, &mut c) } else { (&mut a, &mut b) };
            if self.less(*second, *first) {
                *swaps += 1;
                std::mem::swap(first, second);
            }
        }
        b
    }

    fn partial_insertion_sort(&mut self, a: usize, b: usize) -> bool {
        let mut i = a + 1;
        for _ in 0..5 {
            while i < b && !self.less(i, i - 1) {
                i += 1;
            }
            if i == b {
                return true;
            }
            if b - a < 50 {
                return false;
            }
            self.swap(i, i - 1);
            if i - a >= 2 {
                for j in (1..i).rev() {
                    if !self.less(j, j - 1) {
                        break;
                    }
                    self.swap(j, j - 1);
                }
            }
            if b - i >= 2 {
                for j in i + 1..b {
                    if !self.less(j, j - 1) {
                        break;
                    }
                    self.swap(j, j - 1);
                }
            }
        }
        false
    }

    fn partition_equal(&mut self, a: usize, b: usize, pivot: usize) -> usize {
        self.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        loop {
            while i <= j && !self.less(a, i) {
                i += 1;
            }
            while i <= j && self.less(a, j) {
                j -= 1;
            }
            if i > j {
                return i;
            }
            self.swap(i, j);
            i += 1;
            j -= 1;
        }
    }

    fn partition(&mut self, a: usize, b: usize, pivot: usize) -> (usize, bool) {
        self.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        while i <= j && self.less(i, a) {
            i += 1;
        }
        while i <= j && !self.less(j, a) {
            j -= 1;
        }
        if i > j {
            self.swap(j, a);
            return (j, true);
        }
        self.swap(i, j);
        i += 1;
        j -= 1;
        loop {
            while i <= j && self.less(i, a) {
                i += 1;
            }
            while i <= j && !self.less(j, a) {
                j -= 1;
            }
            if i > j {
                break;
            }
            self.swap(i, j);
            i += 1;
            j -= 1;
        }
        self.swap(j, a);
        (j, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_items_keep_the_order_of_equals() {
        let mut items = [("b", 1), ("a", 1), ("b", 2), ("a", 2), ("c", 1)];
        go_sort(&mut items, |x, y| x.0 > y.0);
        assert_eq!(items, [("c", 1), ("b", 1), ("b", 2), ("a", 1), ("a", 2)]);
    }

    #[test]
    fn any_number_of_items_is_sorted() {
        for len in [0, 1, 12, 13, 49, 50, 51, 400, 5000] {
            for kind in 0..5_u64 {
                let mut seed = len as u64 + kind;
                let mut items: Vec<u64> = (0..len as u64)
                    .map(|index| match kind {
                        0 => index,
                        1 => len as u64 - index,
                        2 => 7,
                        3 => index % 10,
                        _ => {
                            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            seed >> 40
                        }
                    })
                    .collect();
                let mut expected = items.clone();
                expected.sort_unstable();
                go_sort(&mut items, |a, b| a < b);
                assert_eq!(items, expected, "{len} {kind}");
            }
        }
    }
}
