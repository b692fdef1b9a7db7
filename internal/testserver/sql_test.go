package testserver

import (
	"database/sql"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
)

func TestPostgresKeepsWhatItCommittedOverKill(t *testing.T) {
	srv := Postgres(t, PostgresOptions{Password: "p 'w", Config: []string{"max_connections = 7"}})
	conn, err := pgx.Connect(t.Context(), srv.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t AS SELECT 'kept' AS v"); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	srv.Restart() // while the session of the killed one is still known to the client
	again, err := pgx.Connect(t.Context(), srv.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(t.Context())
	var value, limit string
	err = again.QueryRow(t.Context(), "SELECT v, current_setting('max_connections') FROM t").Scan(&value, &limit)
	if err != nil || value != "kept" || limit != "7" {
		t.Errorf("after the kill: %q, max_connections %q, %v", value, limit, err)
	}
	open, err := pgx.ParseConfig(srv.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	open.Password = "wrong"
	if conn, err := pgx.ConnectConfig(t.Context(), open); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the server takes any password")
	}
}

func TestMariaDBKeepsWhatItCommittedOverKill(t *testing.T) {
	srv := MariaDB(t, MariaDBOptions{Args: []string{"--max-connections=17"}})
	db, err := sql.Open("mysql", srv.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, stmt := range []string{"CREATE DATABASE d", "CREATE TABLE d.t (v TEXT)", "INSERT INTO d.t VALUES ('kept')"} {
		if _, err := db.ExecContext(t.Context(), stmt); err != nil {
			t.Fatal(err)
		}
	}
	srv.Kill()
	srv.Restart()
	again, err := sql.Open("mysql", srv.DSN("d"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var value, limit string
	err = again.QueryRowContext(t.Context(), "SELECT v, @@max_connections FROM t").Scan(&value, &limit)
	if err != nil || value != "kept" || limit != "17" {
		t.Errorf("after the kill: %q, max_connections %q, %v", value, limit, err)
	}
}
