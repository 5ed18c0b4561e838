//! What the tests share: a scheduler, its clock, and what each wake-up means.

pub use proactor_core::engine::{Activity, ThreadClock};
pub use proactor_core::scheduler::{Decision, Limits, Phase, Sample, Scheduler, Verdict, Wakes, Work, WorkerId};

pub const MICROSECOND: u64 = 1_000;
pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

#[derive(Debug, PartialEq, Eq)]
pub enum Woke {
    Nobody,
    Worker,
    Leader,
}

pub struct Rig {
    pub scheduler: Scheduler<u32>,
    pub now: u64,
    /// By the order of registration.
    pub cpu: Vec<u64>,
    pub activity: Vec<Activity>,
    pub samples: Vec<Sample>,
    pub registered: std::cell::Cell<u64>,
}

impl Rig {
    pub fn free(concurrency: usize, max_workers: usize) -> Self {
        Self::new(Limits { concurrency, max_workers, interpreter_lock: false })
    }

    pub fn locked(concurrency: usize, max_workers: usize) -> Self {
        Self::new(Limits { concurrency, max_workers, interpreter_lock: true })
    }

    /// The threads are their callers'.
    pub fn callers(concurrency: usize) -> Self {
        Self::free(concurrency, Limits::CALLERS)
    }

    pub fn new(limits: Limits) -> Self {
        Rig {
            scheduler: Scheduler::new(limits),
            now: SECOND,
            cpu: vec![0; 16],
            activity: vec![Activity::Unknown; 16],
            samples: Vec::new(),
            registered: std::cell::Cell::new(0),
        }
    }

    pub fn register(&self) -> WorkerId {
        let number = self.registered.get();
        self.registered.set(number + 1);
        self.scheduler.register(ThreadClock(number)).0
    }

    /// A worker about to decide; what would be started besides it is not.
    pub fn idle_worker(&self) -> WorkerId {
        let worker = self.register();
        if self.scheduler.limits().are_callers() {
            self.finishes(worker);
        } else if self.scheduler.counts().workers == 1 && self.scheduler.limits().max_workers > 1 {
            assert_eq!(self.decide(worker), Decision::Take);
            assert_eq!(self.scheduler.pop(worker).0, Some(Work::StartWorker));
            self.finishes(worker);
        }
        worker
    }

    pub fn idle_workers<const N: usize>(&self) -> [WorkerId; N] {
        std::array::from_fn(|_| self.idle_worker())
    }

    // -- workers --

    pub fn decide(&self, worker: WorkerId) -> Decision {
        let decision = self.scheduler.decide(worker);
        self.scheduler.check();
        decision
    }

    pub fn leads(&self, worker: WorkerId) {
        assert_eq!(self.decide(worker), Decision::Lead);
    }

    pub fn leads_after_starting_a_spare(&self, worker: WorkerId) {
        assert_eq!(self.decide(worker), Decision::Take);
        assert_eq!(self.scheduler.pop(worker).0, Some(Work::StartWorker));
        self.finishes(worker);
        self.leads(worker);
    }

    pub fn parks_or_leads(&self, worker: WorkerId) {
        assert!(matches!(self.decide(worker), Decision::Park | Decision::Lead));
    }

    pub fn parks(&self, worker: WorkerId) {
        assert_eq!(self.decide(worker), Decision::Park);
    }

    /// Decides to take, and takes; a spare it would have to start first fails to start.
    pub fn takes(&self, worker: WorkerId, item: u32) {
        assert_eq!(self.decide(worker), Decision::Take);
        let (mut work, wakes) = self.scheduler.pop(worker);
        self.woke(wakes);
        if work == Some(Work::StartWorker) {
            self.scheduler.start_failed();
            work = self.finish(worker);
        }
        assert_eq!(work, Some(Work::Item(item)));
        self.scheduler.check();
    }

    /// A look that is due brings nothing, and is over at once.
    pub fn finish(&self, worker: WorkerId) -> Option<Work<u32>> {
        let look = self.scheduler.is_look_due();
        let work = self.finish_only(worker);
        if !look || work.is_some() || self.counts().queued == 0 || self.decide(worker) != Decision::Look {
            return work;
        }
        self.scheduler.led(worker, []);
        assert_eq!(self.decide(worker), Decision::Take);
        let (work, wakes) = self.scheduler.pop(worker);
        self.woke(wakes);
        work
    }

    pub fn finish_only(&self, worker: WorkerId) -> Option<Work<u32>> {
        let (work, wakes) = self.scheduler.finish_and_pop(worker, None);
        self.woke(wakes);
        self.scheduler.check();
        work
    }

    pub fn finishes(&self, worker: WorkerId) {
        assert_eq!(self.finish(worker), None);
    }

    pub fn finishes_and_takes(&self, worker: WorkerId, item: u32) {
        assert_eq!(self.finish(worker), Some(Work::Item(item)));
    }

    pub fn block(&self, worker: WorkerId) -> Woke {
        let wakes = self.scheduler.block(worker);
        self.woke(wakes)
    }

    pub fn unblock(&self, worker: WorkerId) {
        let _ = self.scheduler.unblock(worker);
        self.scheduler.check();
    }

    pub fn post(&self, items: impl IntoIterator<Item = u32>) -> Woke {
        let wakes = self.scheduler.post(items);
        self.woke(wakes)
    }

    pub fn woke(&self, wakes: Wakes) -> Woke {
        self.scheduler.check();
        match (wakes.worker, wakes.leader) {
            (Some(_), false) => Woke::Worker,
            (None, true) => Woke::Leader,
            (None, false) => Woke::Nobody,
            (Some(_), true) => panic!("one of them is enough"),
        }
    }

    pub fn phase(&self, worker: WorkerId) -> Phase {
        self.scheduler.phase(worker)
    }

    pub fn counts(&self) -> proactor_core::scheduler::Counts {
        self.scheduler.counts()
    }

    // -- the monitor --

    /// `used`: CPU time in this tick, by the order of registration.
    pub fn tick(&mut self, wall: u64, used: &[u64]) -> Verdict {
        for (cpu, used) in self.cpu.iter_mut().zip(used) {
            *cpu += used;
        }
        self.sample();
        self.judge(wall)
    }

    pub fn verdict_of_tick(&mut self) -> Verdict {
        let verdict = self.tick(MILLISECOND, &[]);
        if verdict.lead {
            let _ = self.scheduler.monitor_led([]);
        }
        verdict
    }

    pub fn sample(&mut self) {
        self.scheduler.observe(&mut self.samples);
        for sample in &mut self.samples {
            sample.cpu = self.cpu[sample.clock.0 as usize];
            sample.activity = self.activity[sample.clock.0 as usize];
            sample.looked = true;
        }
    }

    /// Who is about to take an item looks at the fresh ones: at how many.
    pub fn looks_at_fresh(&self, me: Option<WorkerId>, activity: Activity) -> usize {
        let mut samples = self.scheduler.fresh(me);
        for sample in &mut samples {
            sample.cpu = self.cpu[sample.clock.0 as usize];
            sample.activity = activity;
        }
        self.scheduler.looked_at(&samples, self.now);
        self.scheduler.check();
        samples.len()
    }

    /// Three runners beyond a concurrency of one, with items that mostly wait: the worker has the last of them, and work waits.
    pub fn with_extra_runners() -> (Self, WorkerId) {
        let mut rig = Rig::locked(1, 16);
        let first = rig.idle_worker();
        rig.post(1..=100);
        rig.takes(first, 1);
        for item in 2..5 {
            rig.tick(MILLISECOND, &[200 * MICROSECOND]);
            rig.finishes_and_takes(first, item);
        }
        assert_eq!(rig.counts().allowance, 3);
        (rig, first)
    }

    pub fn judge(&mut self, wall: u64) -> Verdict {
        self.now += wall;
        let verdict = self.scheduler.judge(&self.samples, self.now);
        self.scheduler.check();
        verdict
    }
}
