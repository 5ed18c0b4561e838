//! One suite for every engine: what `proactor_core::engine` promises. A world makes listeners and peers for its engine; the tests know only worlds.
//!
//! No test sleeps and hopes: each polls until what it waits for has happened, or a deadline says that it has not.

#![cfg(not(any(feature = "loom", feature = "shuttle")))]

mod doubles;
#[cfg(target_os = "linux")]
mod epoll;
#[cfg(target_os = "linux")]
mod epoll_looks;
#[cfg(target_os = "linux")]
mod epoll_races;
mod files;
#[cfg(windows)]
mod iocp;
#[cfg(windows)]
mod iocp_connects;
#[cfg(windows)]
mod iocp_files;
#[cfg(windows)]
mod iocp_memory;
#[cfg(windows)]
mod iocp_pipes;
#[cfg(windows)]
mod iocp_waits;
mod peers;
mod simulated;
mod sockets;
#[cfg(target_os = "linux")]
mod sockets_epoll;
mod suite;
mod waits;
mod waking;
mod worlds;

/// The whole suite.
mod tests {
    pub use crate::files::*;
    pub use crate::sockets::*;
    pub use crate::suite::*;
    pub use crate::waits::*;
    pub use crate::waking::*;
}

macro_rules! suite {
    ($($name:ident)*) => {
        #[cfg(target_os = "linux")]
        mod on_epoll {
            $(#[test] fn $name() { crate::worlds::run::<crate::worlds::EpollWorld>(crate::tests::$name); })*
        }
        #[cfg(windows)]
        mod on_iocp {
            $(#[test] fn $name() { crate::worlds::run::<crate::iocp::IocpWorld>(crate::tests::$name); })*
        }
        mod on_simulated {
            $(#[test] fn $name() { crate::worlds::run::<crate::worlds::SimulatedWorld>(crate::tests::$name); })*
        }
        mod on_simulated_in_disorder {
            $(#[test] fn $name() { crate::worlds::run::<crate::worlds::DisorderedWorld>(crate::tests::$name); })*
        }
    };
}

suite! {
    a_burst_of_a_thousand_connects_is_accepted_whole
    a_paused_listener_keeps_its_clients_waiting
    a_closed_listener_refuses_clients_although_its_handle_is_held
    bytes_arrive_exactly_and_in_order_however_they_are_split
    the_peer_may_finish_first_and_still_receive
    we_may_finish_first_and_still_receive
    a_reset_is_a_failure_and_never_an_end
    bytes_that_came_before_a_reset_are_received_first
    a_reset_is_told_after_the_peers_end
    a_pause_loses_nothing_and_brings_nothing
    an_end_that_came_with_the_last_bytes_is_told_after_a_pause
    receiving_may_begin_long_after_the_bytes_have_come
    a_small_send_is_done_at_once
    a_send_of_many_pieces_keeps_their_order
    a_pending_send_completes_once_with_its_whole_count
    a_pending_send_that_fails_reports_what_was_sent_and_what_was_not
    a_send_on_a_dead_connection_fails_at_once
    a_reset_stays_a_reset_however_often_a_sender_asks
    bytes_of_a_pending_send_are_dropped_once_when_the_handle_is_closed
    a_pending_send_that_is_given_up_says_what_was_sent_and_the_next_one_follows
    a_successor_in_the_slot_never_gets_its_predecessors_completions
    closing_twice_is_harmless_and_everything_afterwards_fails
    an_orderly_close_lets_the_peer_have_what_was_sent
    an_abort_resets_at_once_although_the_handle_is_held
    a_wake_before_a_poll_ends_it_at_once
    a_wake_ends_a_sleeping_poll
    no_wake_is_lost_in_a_storm
    one_poll_receives_about_64_kib_and_a_flood_starves_nobody
    large_messages_come_in_large_buffers
    a_thread_that_waits_uses_no_cpu_time
    as_many_clients_are_accepted_as_were_asked_for
    counted_accepts_may_be_paused_and_asked_for_anew
    a_surrendered_connection_outlives_its_handle
    a_reset_is_told_while_receiving_is_paused
    two_orderly_ends_in_a_pause_are_no_reset
    a_wait_completes_once_and_again_only_when_asked
    a_wait_for_what_is_ready_already_completes
    a_wait_outlives_its_owners_descriptor
    a_closed_wait_brings_nothing_although_its_object_becomes_ready
    every_handle_can_be_asked_for_its_address
    each_of_five_hundred_waits_for_one_object_completes_once
    an_attempt_to_connect_completes_once_and_the_stream_works
    a_refused_attempt_says_so_and_may_be_repeated
    what_the_peer_sends_at_once_is_received_after_the_connect
    a_cancelled_attempt_does_not_complete_and_another_may_follow
    a_closed_attempt_does_not_complete
    a_connected_stream_refuses_to_connect_and_stays_as_it_is
    datagrams_come_whole_in_order_and_with_their_senders
    paused_datagrams_wait_and_are_not_lost
    a_datagram_of_many_pieces_is_sent_as_one
    a_closed_datagram_socket_brings_nothing_and_sends_nothing
    a_piece_of_a_file_is_sent_and_what_follows_comes_after_it
    a_file_that_ends_before_the_piece_is_sent_up_to_its_end
    a_piece_may_lie_beyond_the_first_4_gib
    a_file_that_finds_no_room_completes_once_there_is_some
    a_reset_ends_the_sending_of_a_file
    a_closed_handle_sends_no_file_and_tells_of_none
    a_file_that_the_kernel_cannot_send_is_refused_and_the_connection_goes_on
}
